"""Examples in batches of about equal length: every bucket has one fixed shape, so a run compiles as many steps as it has buckets.

The borders between buckets are those that leave the least padding for this data, found by dynamic programming over the lengths that
occur. With by="tokens" every batch has about as much padded area, `batch_size` rows of `length` tokens: short examples come many at a
time. A bucket's last batch of an epoch is filled up with rows of zeros, whose `index` is -1.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import counter
from decoder_lab.data.examples import SEQUENCES, Examples

MOST_LENGTHS = 512  # lengths that are looked at as borders
ROWS, BATCHES = 1, 2  # keep the streams of random orders apart


@dataclasses.dataclass
class Packing:
    """Buckets of examples.

    Attributes:
      examples: given by the lab.
      length: given by the lab, the longest that a feature may be.
      by: what batch_size counts: "tokens" holds batch_size * length padded tokens a batch (of the longest feature), "examples" rows.
      num_buckets: most shapes that are used.
      pad_to: padded lengths are multiples of it (but never above `length`).
    """

    examples: Examples
    length: int
    by: Literal["tokens", "examples"] = "tokens"
    num_buckets: int = 6
    pad_to: int = 8

    def __post_init__(self):
        for name in (n for n in self.examples.ragged if n not in self.examples.fixed or n in SEQUENCES):
            too_long = self.examples.lengths(name) > self.length
            if too_long.any():
                most = int(self.examples.lengths(name).max())
                raise UserError(
                    f"packing buckets: {int(too_long.sum()):,} of {len(self.examples):,} examples have more than sequence_length = "
                    f"{self.length} {name} (the longest {most}). Raise --config.sequence_length, or let the task cut or drop them."
                )

    def plan(self, batch_size: int, multiple: int = 1, e_N: np.ndarray | None = None) -> "Plan":
        """Returns the batches of all examples, or of `e_N`, for batches whose rows are a multiple of `multiple`."""
        return Plan(self, batch_size, multiple, np.arange(len(self.examples)) if e_N is None else np.asarray(e_N))


def problems(kw) -> list[str]:
    """Both are counted from 1."""
    return [f"{name}: got {kw[name]}, expected 1 or more" for name in ("num_buckets", "pad_to") if kw[name] < 1]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Examples of like length.

    Attributes:
      widths: padded length of each ragged feature.
      width: the longest of them that counts: not that of a vector of labels, as long in every example.
      rows: of a batch.
      e_N: the examples.
      cells: the examples of each source, and how many of them an epoch has.
    """

    widths: dict[str, int]
    width: int
    rows: int
    e_N: np.ndarray
    cells: list[tuple[np.ndarray, int]]

    @property
    def count(self) -> int:
        return sum(n for _, n in self.cells)

    @property
    def batches(self) -> int:
        return -(-self.count // self.rows)


class Plan:
    """Which examples stand in which batch. `take(batch, epoch, seed)` depends on nothing else, and every epoch has equally many batches."""

    def __init__(self, packing: Packing, batch_size: int, multiple: int, e_N: np.ndarray):
        self.examples, self.length, self.pad_to = packing.examples, packing.length, packing.pad_to
        longest_N = np.maximum(self.examples.longest_E[e_N], 1)
        groups = _divide(longest_N, packing.num_buckets, packing.pad_to, packing.length)
        shares = _shares(self.examples, [e_N[g] for g in groups])
        lengths = {name: self.examples.lengths(name) for name in self.examples.ragged}
        self.buckets = []
        for group, cells in zip(groups, shares, strict=True):
            members = e_N[group]
            widths = {name: self._width(name, lengths[name][members]) for name in self.examples.ragged}
            counted = [w for n, w in widths.items() if n not in self.examples.fixed or n in SEQUENCES]
            width = max(1, *(counted or [packing.length]))
            rows = batch_size if packing.by == "examples" else batch_size * packing.length // width
            rows = max(multiple, rows // multiple * multiple)
            rows = min(rows, -(-max(1, sum(n for _, n in cells)) // multiple) * multiple)
            self.buckets.append(Bucket(widths, width, rows, members, cells))
        self.num_batches = sum(b.batches for b in self.buckets)
        self.num_examples = sum(b.count for b in self.buckets)
        self._kept: dict[tuple[int, int], tuple] = {}

    def _width(self, name: str, length_N: np.ndarray) -> int:
        if name in self.examples.fixed:
            return self.examples.fixed[name]
        return min(-(-max(1, int(length_N.max())) // self.pad_to) * self.pad_to, self.length)

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch without padding, of each example's longest feature."""
        longest_E = np.maximum(self.examples.longest_E, self.examples.fixed_width)
        return int(sum(longest_E[e_N].mean() * n for b in self.buckets for e_N, n in b.cells if n))

    @property
    def padding(self) -> float:
        """Share of padding in an epoch's batches, by the longest feature."""
        area = sum(b.batches * b.rows * b.width for b in self.buckets)
        return 1 - min(1.0, self.num_tokens / area) if area else 0.0

    def shapes(self) -> list[dict[str, str]]:
        """Returns {feature: "dtype[rows, ...]"} of each bucket's batches."""
        empty = [self.examples.take(np.full(1, -1), b.widths) for b in self.buckets]
        return [{n: f"{x.dtype}{[b.rows, *x.shape[1:]]}" for n, x in e.items()} for b, e in zip(self.buckets, empty, strict=True)]

    def take(self, batch: int, epoch: int, seed: int, share: int = 0, shares: int = 1) -> dict[str, np.ndarray]:
        """Returns one of `shares` equal, consecutive shares of one batch of an epoch."""
        order_M, bucket_M, place_M, e_K = self._arranged(epoch, seed)
        which = order_M[batch]
        bucket = self.buckets[bucket_M[which]]
        e_B = e_K[bucket_M[which]][place_M[which] * bucket.rows :][: bucket.rows]
        rows = bucket.rows // shares
        return self.examples.take(e_B[share * rows : (share + 1) * rows], bucket.widths)

    def _arranged(self, epoch: int, seed: int) -> tuple:
        """Returns the order of an epoch's batches, of each its bucket and place in it, and the examples of each bucket."""
        if (epoch, seed) not in self._kept:
            order_M = counter.permutation(self.num_batches, seed, epoch, BATCHES)
            bucket_M = np.repeat(np.arange(len(self.buckets)), [b.batches for b in self.buckets])
            place_M = np.concatenate([np.arange(b.batches) for b in self.buckets])
            e_K = [self._shuffled(k, b, epoch, seed) for k, b in enumerate(self.buckets)]
            self._kept = {**dict(list(self._kept.items())[-1:]), (epoch, seed): (order_M, bucket_M, place_M, e_K)}
        return self._kept[epoch, seed]

    def _shuffled(self, k: int, bucket: Bucket, epoch: int, seed: int) -> np.ndarray:
        """Returns the examples of a bucket in an epoch's order, filled up with -1. Each source goes through its own epochs."""
        parts = []
        for p, (e_N, count) in enumerate(bucket.cells):
            place = epoch * count + np.arange(count, dtype=np.int64)
            own_epochs = np.unique(place // max(1, len(e_N))).tolist()
            parts += [
                e_N[counter.permutation(len(e_N), seed, own, ROWS, k, p)[place[place // len(e_N) == own] % len(e_N)]] for own in own_epochs
            ]
        chosen = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        if len(bucket.cells) > 1:  # mixes the sources
            chosen = chosen[counter.permutation(len(chosen), seed, epoch, ROWS, k)]
        return np.concatenate([chosen, np.full(bucket.batches * bucket.rows - len(chosen), -1)])

    def evaluation(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Yields (numbers of the examples, -1 where a row fills up; batch): every example once, nothing shuffled or weighted."""
        for bucket in self.buckets:
            for start in range(0, len(bucket.e_N), bucket.rows):
                e_B = bucket.e_N[start : start + bucket.rows]
                e_B = np.concatenate([e_B, np.full(bucket.rows - len(e_B), -1)])
                yield e_B, self.examples.take(e_B, bucket.widths)


def _divide(length_N: np.ndarray, num_buckets: int, pad_to: int, most: int) -> list[np.ndarray]:
    """Returns the places of each bucket's members, so that as little as possible is padded when each is padded to its own longest."""
    padded_N = np.minimum(-(-length_N // pad_to) * pad_to, max(most, int(length_N.max())))
    width_M, count_M = np.unique(padded_N, return_counts=True)
    if len(width_M) > MOST_LENGTHS:
        kept = np.unique(np.append(np.linspace(0, len(width_M) - 1, MOST_LENGTHS).astype(int), len(width_M) - 1))
        padded_N = width_M[kept][np.searchsorted(width_M[kept], padded_N)]
        width_M, count_M = np.unique(padded_N, return_counts=True)
    ends = borders(width_M, count_M, num_buckets)
    bucket_N = np.searchsorted(width_M[ends], padded_N)
    return [np.flatnonzero(bucket_N == k) for k in range(len(ends))]


def borders(width_M: np.ndarray, count_M: np.ndarray, num_buckets: int) -> list[int]:
    """Returns the last entry of each bucket: at most `num_buckets` of the ascending widths, the last among them, of the least total area.

    The area of a bucket is its members times its largest width; best[k][j] of the first j entries in k buckets is
    min over i of best[k-1][i] + (members between i and j) * width[j-1].
    """
    total_M = np.concatenate([[0], np.cumsum(count_M)]).astype(np.float64)
    size = len(width_M)
    best = np.concatenate([[0.0], np.full(size, np.inf)])
    choices = []
    for _ in range(min(num_buckets, size)):
        costs = best[:, None] + (total_M[None] - total_M[:, None]) * np.concatenate([[0], width_M])[None]
        costs[np.tril_indices(size + 1)] = np.inf
        choices.append(costs.argmin(axis=0))
        best = costs.min(axis=0)
    ends, j = [], size
    for choice in reversed(choices):
        ends.append(j - 1)
        j = int(choice[j])
    return ends[::-1]


def _shares(examples: Examples, members: list[np.ndarray]) -> list[list[tuple[np.ndarray, int]]]:
    """Returns for each bucket the examples of each source and how many of them an epoch has.

    With weights the sources' numbers of examples are in these proportions, however many they have: those of one are repeated or left for
    the next epoch, a bucket's own in turn; a bucket that has any of a source gives at least one of them.
    """
    starts = examples.ends - examples.sizes
    cells = [[m[(m >= start) & (m < end)] for start, end in zip(starts, examples.ends, strict=True)] for m in members]
    if examples.weights is None:
        return [[(e_N, len(e_N)) for e_N in bucket if len(e_N)] for bucket in cells]
    there = np.array([sum(len(bucket[p]) for bucket in cells) for p in range(len(examples.sizes))])
    wanted = np.asarray(examples.weights, np.float64) / np.sum(examples.weights) * there.sum()
    counts = []
    for p, total in enumerate(np.rint(wanted).astype(int).tolist()):
        ideal = np.array([len(bucket[p]) for bucket in cells]) * (total / max(1, there[p]))
        count_K = np.where(ideal > 0, np.maximum(1, np.floor(ideal)), 0).astype(int)
        for k in np.argsort(count_K - ideal, kind="stable")[: max(0, total - count_K.sum())]:
            count_K[k] += ideal[k] > 0
        counts.append(count_K.tolist())
    return [[(e_N, counts[p][k]) for p, e_N in enumerate(bucket) if len(e_N)] for k, bucket in enumerate(cells)]
