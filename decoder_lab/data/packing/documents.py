"""Whole documents packed into rows: segments 1, 2, ..., positions that restart, and no label across a border.

A document of n tokens fills n - 1 places, each input with the next token of its own document as label, its end-of-text id included.
Longer documents are cut into pieces of a row's length that overlap by one token, so that every token but a document's first is a label
exactly once; a piece counts as a document of its own. Which piece stands in which row is planned once, by best-fit decreasing
(Johnson 1973: at most 11/9 of the fewest rows), kept on disk, and the same in all epochs; only the order of the rows changes.
"""

import dataclasses
import pathlib

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import cache, counter
from decoder_lab.data.bins import best_fit

PLAN = ("piece_start", "piece_length", "row_offset")


@dataclasses.dataclass
class Packing:
    """Rows of `length` inputs; batch keys tokens, labels, segments, positions int32 [B,T] and weights float32 [B,T]."""

    tokens: cache.TokenCache
    length: int

    def __post_init__(self):
        self._start_P, self._length_P, self._offset_R = self._plan()
        if len(self._offset_R) < 2:
            raise UserError(f"packing documents: none of {self.tokens.num_documents} documents has the two tokens that one label takes.")
        self._order = counter.EpochOrder(len(self._offset_R) - 1)

    def _plan(self) -> tuple[np.ndarray, ...]:
        if not self.tokens.key:  # tokens in memory have nothing to be found again by
            return plan(self.tokens.offsets, self.length)

        def write(path: pathlib.Path) -> dict:
            for name, array in zip(PLAN, plan(self.tokens.offsets, self.length), strict=True):
                np.save(path / f"{name}.npy", array)
            return {}

        path, _ = cache.entry("plan", dict(packing="documents 1", tokens=self.tokens.key, length=self.length), write)
        return tuple(np.load(path / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in PLAN)

    def rows(self, epoch: int | None, seed: int) -> int:
        return len(self._offset_R) - 1

    def take(self, rows_B: np.ndarray, epoch: int | None, seed: int) -> dict[str, np.ndarray]:
        rows_B = np.asarray(rows_B) if epoch is None else self._order(rows_B, epoch, seed)
        first_B = self._offset_R[rows_B]
        count_B = self._offset_R[rows_B + 1] - first_B
        row_P = np.repeat(np.arange(len(rows_B)), count_B)
        segment_P = _count_up(count_B)
        piece_P = first_B[row_P] + segment_P
        length_P = self._length_P[piece_P]
        before_P = np.cumsum(length_P) - length_P  # places filled by all pieces before
        column_P = before_P - before_P[np.cumsum(count_B) - count_B][row_P]
        position_N = _count_up(length_P)
        source_N = np.repeat(self._start_P[piece_P], length_P) + position_N
        target_N = np.repeat(row_P * self.length + column_P, length_P) + position_N
        values = dict(
            tokens=self.tokens.tokens[source_N],
            labels=self.tokens.tokens[source_N + 1],
            segments=np.repeat(segment_P + 1, length_P),
            positions=position_N,
            weights=1.0,
        )
        batch = {}
        for name, value_N in values.items():
            batch[name] = np.zeros((len(rows_B), self.length), np.float32 if name == "weights" else np.int32)
            batch[name].reshape(-1)[target_N] = value_N
        return batch


def _count_up(counts: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]."""
    total = np.cumsum(counts)
    return np.arange(total[-1]) - np.repeat(total - counts, counts)


def plan(offsets_D: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packs documents into rows of `length` places.

    Args:
      offsets_D: int64 [D+1], where documents begin in the stream.
    Returns: first token int64 [P] and places int32 [P] of every piece, sorted by row, and int64 [R+1], where rows begin in these.
    """
    places_D = np.maximum(np.diff(offsets_D) - 1, 0)
    whole_D, rest_D = places_D // length, places_D % length
    whole_start = np.repeat(offsets_D[:-1], whole_D) + _count_up(whole_D) * length if whole_D.any() else np.zeros(0, np.int64)
    document_P = np.flatnonzero(rest_D)
    document_P = document_P[np.argsort(-rest_D[document_P], kind="stable")]
    rest_start = offsets_D[:-1][document_P] + whole_D[document_P] * length
    row_P = np.concatenate([np.arange(len(whole_start)), len(whole_start) + best_fit(rest_D[document_P], length)])
    order = np.argsort(row_P, kind="stable")
    start_P = np.concatenate([whole_start, rest_start])[order]
    length_P = np.concatenate([np.full(len(whole_start), length), rest_D[document_P]])[order]
    return start_P, length_P.astype(np.int32), np.concatenate([[0], np.cumsum(np.bincount(row_P))]).astype(np.int64)
