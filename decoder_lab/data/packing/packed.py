"""Whole examples packed into rows of `length` places: segments 1, 2, ..., positions that restart, no attention or label across a border.

For tasks whose features all run along the row (`tokens`, `segments`, `labels`, `weights`, ...): instruction tuning and its like. Every row
has one shape, so a run compiles its step once. Which example stands in which row is planned by best-fit decreasing and is the same in all
epochs; only the order of the rows changes. A row's `index` is the item of its first example, -1 in rows that only fill a batch up.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import counter
from decoder_lab.data.bins import best_fit
from decoder_lab.data.examples import INDEX, Examples


@dataclasses.dataclass
class Packing:
    """Rows of several examples; batch_size counts rows.

    Attributes:
      examples: given by the lab.
      length: given by the lab, of a row.
    """

    examples: Examples
    length: int

    def __post_init__(self):
        along = {name: self.examples.lengths(name) for name in self.examples.ragged}
        if "segments" not in along:
            raise UserError("packing packed: this task's examples have no segments, which keep them apart in a row. Use packing=buckets.")
        other = [name for name in self.examples.names if name not in along or not np.array_equal(along[name], along["segments"])]
        if other:
            raise UserError(
                f"packing packed: {', '.join(other)} of this task's examples are not as long as its segments, so they cannot share a row. "
                "Use packing=buckets."
            )
        if self.examples.weights is not None:
            raise UserError("packing packed: it keeps no weights between the sources of a mixture. Use packing=buckets.")
        if (most := int(along["segments"].max())) > self.length:
            raise UserError(
                f"packing packed: the longest example has {most} tokens, more than sequence_length = {self.length}. "
                "Raise --config.sequence_length, or let the task cut or drop it."
            )

    def plan(self, batch_size: int, multiple: int = 1, e_N: np.ndarray | None = None) -> "Plan":
        """Returns the batches of all examples, or of `e_N`, for batches whose rows are a multiple of `multiple`."""
        return Plan(self, batch_size, multiple, np.arange(len(self.examples)) if e_N is None else np.asarray(e_N))


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of the only kind of batch that there is."""

    rows: int
    width: int


class Plan:
    """Which examples stand in which row. `take(batch, epoch, seed)` depends on nothing else, and every epoch has equally many batches."""

    def __init__(self, packing: Packing, batch_size: int, multiple: int, e_N: np.ndarray):
        self.examples, self.length = packing.examples, packing.length
        sizes_N = np.maximum(self.examples.lengths("segments")[e_N], 1)
        order_N = np.argsort(-sizes_N, kind="stable")
        row_N = best_fit(sizes_N[order_N], self.length)
        by_row = np.argsort(row_N, kind="stable")
        self._e_P, self._size_P = e_N[order_N][by_row], sizes_N[order_N][by_row]
        self._offset_R = np.concatenate([[0], np.cumsum(np.bincount(row_N))])
        self.num_rows = len(self._offset_R) - 1
        rows = max(multiple, batch_size // multiple * multiple)
        self.rows = min(rows, -(-self.num_rows // multiple) * multiple)
        self.buckets = [Shape(self.rows, self.length)]
        self.num_batches, self.num_examples = -(-self.num_rows // self.rows), len(e_N)
        self.num_tokens = int(sizes_N.sum())
        self._order = counter.EpochOrder(self.num_rows)

    @property
    def padding(self) -> float:
        """Share of padding in an epoch's batches."""
        return 1 - self.num_tokens / (self.num_batches * self.rows * self.length)

    def shapes(self) -> list[dict[str, str]]:
        """Returns {feature: "dtype[rows, ...]"} of the batches."""
        return [{name: f"{x.dtype}{list(x.shape)}" for name, x in self._batch(np.full(self.rows, -1)).items()}]

    def take(self, batch: int, epoch: int, seed: int, share: int = 0, shares: int = 1) -> dict[str, np.ndarray]:
        """Returns one of `shares` equal, consecutive shares of one batch of an epoch."""
        place_B, rows = self._places(batch), self.rows // shares
        r_B = np.where(place_B < 0, -1, self._order(place_B, epoch, seed))
        return self._batch(r_B[share * rows : (share + 1) * rows])

    def evaluation(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Yields (numbers of the rows, -1 where one fills up; batch): every example once, nothing shuffled."""
        for batch in range(self.num_batches):
            r_B = self._places(batch)
            yield r_B, self._batch(r_B)

    def _places(self, batch: int) -> np.ndarray:
        place_B = batch * self.rows + np.arange(self.rows)
        return np.where(place_B < self.num_rows, place_B, -1)

    def _batch(self, r_B: np.ndarray) -> dict[str, np.ndarray]:
        real_B, safe_B = r_B >= 0, np.maximum(r_B, 0)
        count_B = np.where(real_B, self._offset_R[safe_B + 1] - self._offset_R[safe_B], 0)
        row_P = np.repeat(np.arange(len(r_B)), count_B)
        ordinal_P = np.arange(len(row_P)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        piece_P = self._offset_R[safe_B][row_P] + ordinal_P
        size_P = self._size_P[piece_P]
        before_P = np.cumsum(size_P) - size_P  # places filled by all examples of the batch before, and by those of earlier rows
        of_row_B = np.concatenate([[0], np.cumsum(size_P)])[np.cumsum(count_B) - count_B]
        within_N = np.arange(int(size_P.sum())) - np.repeat(before_P, size_P)
        target_N = np.repeat(row_P * self.length + before_P - of_row_B[row_P], size_P) + within_N
        widest = int(size_P.max(initial=1))
        taken = self.examples.take(self._e_P[piece_P] if len(piece_P) else np.array([-1]), dict.fromkeys(self.examples.ragged, widest))
        source_N = np.repeat(np.arange(len(row_P)) * widest, size_P) + within_N
        item_P = taken.pop(INDEX)
        batch = {}
        for name, value in {**taken, "positions": taken.get("positions", _counted(taken["segments"]))}.items():
            flat = value.reshape(-1, *value.shape[2:])
            batch[name] = np.zeros((len(r_B) * self.length, *value.shape[2:]), value.dtype)
            batch[name][target_N] = flat[source_N]
            batch[name] = batch[name].reshape(len(r_B), self.length, *value.shape[2:])
        ordinal_BT = np.zeros(len(r_B) * self.length, np.int32)
        ordinal_BT[target_N] = np.repeat(ordinal_P + 1, size_P)
        batch["segments"] = np.where(batch["segments"] != 0, ordinal_BT.reshape(len(r_B), self.length), 0).astype(np.int32)
        batch[INDEX] = np.full(len(r_B), -1, np.int32)
        batch[INDEX][row_P[ordinal_P == 0]] = item_P[: len(row_P)][ordinal_P == 0]
        return batch


def _counted(segments_PT: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(segments_PT.shape[1], dtype=np.int32), segments_PT.shape)
