"""Tasks made of numbers, without files: reversing, copying, sorting, adding, and arithmetic modulo a prime.

Item i of a split is a pure function of (seed, split, i). No two splits share an item.

| kind | after | an item |
|---|---|---|
| reverse | JoeyNMT's reverse task: numbers 0-49, at most 25 in training, 30 otherwise; 50,000 / 1,000 / 1,000 | "3 41 7" -> "7 41 3" |
| copy, sort | Sockeye's system tests: digits, at most 9; 20,000 / 1,000 / 1,000 | "3 1 2" -> "3 1 2", "1 2 3" |
| addition | Flax's seq2seq example: two numbers of up to 3 digits; 50,000 / 1,000 / 1,000 | "12+345" -> "357" |
| modular | Power et al. 2022 ("Grokking"): all pairs (a, b) below p = 97, a share of them for training | "12 + 90" -> "5" |
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import counter, files

# kind -> (numbers drawn from 0..n-1, longest in training, longest otherwise, items in training, items otherwise)
SIZES = dict(
    reverse=(50, 25, 30, 50_000, 1000),
    copy=(10, 9, 9, 20_000, 1000),
    sort=(10, 9, 9, 20_000, 1000),
    addition=(10, 3, 3, 50_000, 1000),
    modular=(97, 2, 2, 0, 0),
)
PERCENT = dict(validation=(0, 5), test=(5, 10), train=(10, 100))  # of the hash of what an item is made of


@dataclasses.dataclass
class Source:
    """Items {"source": str, "target": str}; of kind "modular" also {"text": "12 + 90 =", "label": "5"}, and no test split.

    Attributes:
      kind: the task. Its sizes, see the module, hold where a field is None.
      seed: of all draws.
      symbols: how many numbers there are; of "modular" the modulus, of "addition" fixed.
      max_length: most numbers of a training item; of "addition" most digits of a number.
      max_length_evaluation: the same of the other splits.
      num_train: items in training.
      num_evaluation: items in each other split.
      operation: of "modular"; "/" multiplies by the inverse of b, which is not 0 then, and needs a prime.
      train_share: of "modular", the share of all pairs that are for training; all others are for validation.
    """

    split: str
    kind: Literal["reverse", "copy", "sort", "addition", "modular"] = "reverse"
    seed: int = 0
    symbols: int | None = None
    max_length: int | None = None
    max_length_evaluation: int | None = None
    num_train: int | None = None
    num_evaluation: int | None = None
    operation: Literal["+", "-", "*", "/"] = "+"
    train_share: float = 0.5

    def __post_init__(self):
        if self.split not in PERCENT:
            raise UserError(f'source synthetic: split: got "{self.split}", expected one of {", ".join(files.SPLITS)}.')
        if self.kind == "modular" and self.split == "test":
            raise UserError("source synthetic: kind modular has the splits train and validation: they hold all pairs together.")
        given = (self.symbols, self.max_length, self.max_length_evaluation, self.num_train, self.num_evaluation)
        symbols, *sizes = (default if own is None else own for own, default in zip(given, SIZES[self.kind], strict=True))
        self._symbols = symbols
        self._longest, self._count = sizes[0::2] if self.split == "train" else sizes[1::2]
        if self.kind == "modular" and self.operation == "/" and any(symbols % n == 0 for n in range(2, symbols)):
            raise UserError(f"source synthetic: symbols={symbols} is not a prime; division modulo it is not defined for all pairs.")

    @functools.cached_property
    def _pairs(self) -> np.ndarray:
        """int64 [n, 2], all (a, b) of the split, of kind modular."""
        p, least = self._symbols, int(self.operation == "/")
        a, b = np.meshgrid(np.arange(p), np.arange(least, p), indexing="ij")
        pairs = np.stack([a.ravel(), b.ravel()], 1)
        order = counter.permutation(len(pairs), self.seed)
        middle = round(self.train_share * len(pairs))
        return pairs[order[:middle] if self.split == "train" else order[middle:]]

    def __len__(self) -> int:
        return len(self._pairs) if self.kind == "modular" else self._count

    def __getitem__(self, i: int) -> dict[str, str]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        if self.kind == "modular":
            return self._modular(*self._pairs[i].tolist())
        numbers = self._drawn(i)
        if self.kind == "addition":
            a, b = numbers
            return {"source": f"{a}+{b}", "target": str(a + b)}
        target = dict(reverse=numbers[::-1], copy=numbers, sort=sorted(numbers))[self.kind]
        return {"source": " ".join(map(str, numbers)), "target": " ".join(map(str, target))}

    def _modular(self, a: int, b: int) -> dict[str, str]:
        p = self._symbols
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a * pow(b, p - 2, p)}[self.operation] % p
        text = f"{a} {self.operation} {b}"
        return {"source": text, "target": str(result), "text": f"{text} =", "label": str(result)}

    def _drawn(self, i: int) -> list[int]:
        """Returns the numbers of item i: drawn until their hash falls into the split's share."""
        low, high = PERCENT[self.split]
        split = files.SPLITS.index(self.split)
        for attempt in range(10_000):
            bits = counter.bits(np.arange(self._longest + 2), self.seed, split, i, attempt).tolist()
            if self.kind == "addition":
                numbers = [b % 10**self._longest for b in bits[:2]]
            else:
                numbers = [b % self._symbols for b in bits[1 : 2 + bits[0] % self._longest]]
            if low <= counter.key(*numbers) % 100 < high:
                return numbers
        sizes = f"symbols={self._symbols}, longest {self._longest}"
        raise UserError(f"source synthetic: so few different items ({sizes}) leave none for {self.split}.")

    def fingerprint(self) -> str:
        return f"synthetic 1 {dataclasses.astuple(self)}"


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    found = []
    for name in ("symbols", "max_length", "max_length_evaluation", "num_train", "num_evaluation"):
        if kw[name] is not None and kw[name] < 1:
            found.append(f"{name} is {kw[name]}, expected more than 0")
    if not 0 < kw["train_share"] < 1:
        found.append(f"train_share is {kw['train_share']}, expected between 0 and 1")
    return found
