"""Rows of a split with what is known about its text, and rows drawn from several of them by weight."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from decoder_lab.data import counter
from decoder_lab.data.cache import TokenCache
from decoder_lab.data.examples import Examples

PERIOD = 1 << 16  # rows after which a mixture repeats its pattern of parts; weights are met to one part in this many
AT_ONCE = 256  # rows that are looked at together when targets are counted


class _Counted:
    """What follows from `rows` and `take` alone."""

    @functools.cached_property
    def num_targets(self) -> int:
        """Labels with a weight in one evaluation pass."""
        return sum(int(np.count_nonzero(weights_BT)) for weights_BT in self._weights(range(self.rows(None, 0))))

    def share_without_target(self, sample: int = 1024) -> float:
        """Share of rows in which nothing is predicted, over at most about `sample` evenly spread rows of evaluation."""
        total = self.rows(None, 0)
        chosen = range(0, total, max(1, total // sample))
        empty = sum(int(np.sum(~weights_BT.any(axis=1))) for weights_BT in self._weights(chosen))
        return empty / len(chosen) if len(chosen) else 0.0

    def _weights(self, chosen: range):
        for i in range(0, len(chosen), AT_ONCE):
            yield self.take(np.asarray(chosen[i : i + AT_ONCE]), None, 0)["weights"]


class PackedRows(_Counted):
    """One packing, with the size of the text behind it (bits per byte need it)."""

    def __init__(self, packing: Any, tokens: TokenCache):
        self.packing = packing
        self.num_bytes = tokens.num_bytes
        self.num_tokens = tokens.num_tokens
        self.num_documents = tokens.num_documents
        self.key = tokens.key  # changes with the text and with how it was tokenised

    def rows(self, epoch: int | None, seed: int) -> int:
        return self.packing.rows(epoch, seed)

    def take(self, rows_B: np.ndarray, epoch: int | None, seed: int) -> dict[str, np.ndarray]:
        return self.packing.take(rows_B, epoch, seed)


class ExampleRows:
    """The examples of a split with the packing that makes batches of them; has the numbers that `PackedRows` has."""

    num_bytes = 0  # of text; examples are not measured in bits per byte

    def __init__(self, packing: Any, examples: Examples):
        self.packing, self.examples, self.key = packing, examples, examples.key
        self.num_documents = examples.num_items
        self.num_tokens = int(examples.longest_E.sum())
        self._plans: dict[tuple, Any] = {}

    def rows(self, epoch: int | None, seed: int) -> int:
        """The number of examples."""
        return len(self.examples)

    def plan(self, batch_size: int, multiple: int = 1, limit: int | None = None) -> Any:
        """Returns the batches of all examples, or of those of `limit` items, evenly spread; rows are a multiple of `multiple`."""
        wanted = (batch_size, multiple, limit)
        if wanted not in self._plans:
            # examples of one item (windows) stand next to each other and are used together
            item_E = np.cumsum(np.concatenate([np.diff(shard.index_E, prepend=-1) != 0 for shard in self.examples.shards])) - 1
            total = int(item_E[-1]) + 1
            used = total if limit is None else min(total, limit)
            self._plans[wanted] = self.packing.plan(batch_size, multiple, np.flatnonzero(np.isin(item_E, np.arange(used) * total // used)))
        return self._plans[wanted]

    @functools.cached_property
    def num_targets(self) -> int:
        """Places with a weight; examples, where the task gives no weights."""
        if "weights" not in self.examples.names:
            return len(self.examples)
        return sum(int(np.count_nonzero(shard.features["weights"].values)) for shard in self.examples.shards)

    def share_without_target(self, sample: int = 1024) -> float:
        """Share of examples in which nothing is predicted, over at most about `sample` evenly spread ones."""
        if "weights" not in self.examples.names:
            return 0.0
        e_B = np.arange(0, len(self.examples), max(1, len(self.examples) // sample))
        widths = {name: int(self.examples.lengths(name).max()) for name in self.examples.ragged}
        weights = self.examples.take(e_B, widths)["weights"].reshape(len(e_B), -1)
        return float(np.mean(~weights.any(axis=1)))


class MixedRows(_Counted):
    """Rows of several parts, interleaved by weight.

    In training the part of row g, counted from the start of the run, is a pure function of g, and each part goes through its own epochs
    at its own pace: among the first n rows a part of weight w has n * w, to within half the number of parts. One epoch of the mixture
    is as many rows as all parts have together. Evaluation is every row of every part once, unweighted.
    """

    def __init__(self, parts: Mapping[str, Any], weights: Mapping[str, float]):
        self.parts = list(parts.values())
        self.num_bytes = sum(p.num_bytes for p in self.parts)
        self.num_tokens = sum(p.num_tokens for p in self.parts)
        self.num_documents = sum(p.num_documents for p in self.parts)
        self.key = " ".join(p.key for p in self.parts)
        self._part_Z, self._ordinal_Z, self._count_P = _pattern([weights[name] for name in parts])

    def rows(self, epoch: int | None, seed: int) -> int:
        return sum(part.rows(epoch, seed) for part in self.parts)

    def take(self, rows_B: np.ndarray, epoch: int | None, seed: int) -> dict[str, np.ndarray]:
        rows_B = np.asarray(rows_B)
        if epoch is None:
            sizes = [part.rows(None, seed) for part in self.parts]
            ends = np.cumsum(sizes)
            part_B = np.searchsorted(ends, rows_B, side="right")
            return self._gather(part_B, rows_B - (ends - sizes)[part_B], None, seed)
        cycle_B, place_B = np.divmod(rows_B + epoch * self.rows(epoch, seed), PERIOD)
        part_B = self._part_Z[place_B]
        return self._gather(part_B, cycle_B * self._count_P[part_B] + self._ordinal_Z[place_B], epoch, seed)

    def _gather(self, part_B: np.ndarray, ordinal_B: np.ndarray, epoch: int | None, seed: int) -> dict[str, np.ndarray]:
        """Takes the `ordinal`-th row of each part; in training that counts on through the part's own epochs."""
        batch: dict[str, np.ndarray] = {}
        for p in np.unique(part_B).tolist():
            part, own_seed = self.parts[p], counter.key(seed, p)
            size = part.rows(None if epoch is None else 0, own_seed)
            for own_epoch in np.unique(ordinal_B[part_B == p] // size).tolist():
                place_b = np.flatnonzero((part_B == p) & (ordinal_B // size == own_epoch))
                taken = part.take(ordinal_B[place_b] % size, None if epoch is None else own_epoch, own_seed)
                for name, value in taken.items():
                    batch.setdefault(name, np.zeros((len(part_B), *value.shape[1:]), value.dtype))[place_b] = value
        return batch


def _pattern(weights: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spreads PERIOD places over parts by weight.

    Part p's j-th place of c is wanted at time (j + 1/2) / c; the places are filled in the order of these times.
    Returns: the part int64 [Z] and its ordinal within the period int64 [Z] of every place, and the places of each part int64 [P].
    """
    shares = np.asarray(weights, np.float64) / math.fsum(weights) * PERIOD
    count_P = np.maximum(1, np.floor(shares).astype(np.int64))
    while count_P.sum() != PERIOD:  # largest remainders first; takes back from the largest where many parts were raised to one place
        step = 1 if count_P.sum() < PERIOD else -1
        count_P[np.argmax((shares - count_P) * step)] += step
    part_Z = np.repeat(np.arange(len(weights)), count_P)
    ordinal_Z = np.concatenate([np.arange(c) for c in count_P])
    order = np.argsort((ordinal_Z + 0.5) / count_P[part_Z], kind="stable")
    return part_Z[order], ordinal_Z[order], count_P
