"""Random numbers that are a pure function of a key and a counter, and that no NumPy release can change.

NumPy keeps its bit streams stable but not what its distributions draw from them. The order of the training data must be the same after
an upgrade, so it is drawn from SplitMix64 here (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

import numpy as np

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def _scramble(x: int) -> int:
    """SplitMix64's finaliser on a Python integer: one-to-one on 64 bits."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def key(*numbers: int) -> int:
    """Folds integers of any size and sign (seed, epoch, purpose, ...) into one 64-bit key; their order matters."""
    folded = len(numbers)
    for number in numbers:
        folded = _scramble((folded * GOLDEN + _scramble((number & MASK) ^ GOLDEN)) & MASK)
    return folded


def bits(counters: np.ndarray, *numbers: int) -> np.ndarray:
    """Returns uint64 random bits of the shape of `counters` (integers >= 0), one draw a counter, from the stream `key(*numbers)`."""
    x = np.atleast_1d(np.asarray(counters)).astype(np.uint64)  # arrays wrap around silently, scalars warn
    x = (x + np.uint64(1)) * np.uint64(GOLDEN) + np.uint64(key(*numbers))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).reshape(np.shape(counters))


def below(counters: np.ndarray, bound: int, *numbers: int) -> np.ndarray:
    """Returns int64 draws in [0, bound); the bias of the remainder is below bound / 2^64."""
    return (bits(counters, *numbers) % np.uint64(bound)).astype(np.int64)


def permutation(n: int, *numbers: int) -> np.ndarray:
    """Returns a random order of range(n), int64 [n]."""
    return np.argsort(bits(np.arange(n), *numbers), kind="stable")


class EpochOrder:
    """The order of n rows in each epoch; keeps the two epochs that a batch may touch, as drawing one takes n log n."""

    def __init__(self, n: int):
        self.n = n
        self._kept: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, rows_B: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        """Returns which row stands at each place of `rows_B` in this epoch."""
        if (epoch, seed) not in self._kept:
            self._kept = dict(list(self._kept.items())[-1:])
            self._kept[epoch, seed] = permutation(self.n, seed, epoch)
        return self._kept[epoch, seed][rows_B]
