"""Concatenate and split: all documents end to end, cut into rows of equal length.

In training each epoch cuts at another offset and takes the rows in another order; up to two rows' worth of tokens at the ends of the
stream are left out of an epoch by the shift. Evaluation cuts from the first token, and every token but that is a label exactly once.
The end-of-text id after a document is a label like any other (a model that never learns it never stops).
"""

import dataclasses

import numpy as np

from decoder_lab.data import counter, slices
from decoder_lab.data.cache import TokenCache

SHIFT = 1  # keeps the stream of random shifts apart from that of the orders


@dataclasses.dataclass
class Packing:
    """Rows of `length` inputs; batch keys tokens, labels int32 [B,T], weights float32 [B,T]."""

    tokens: TokenCache
    length: int

    def __post_init__(self):
        # one row fewer than fits leaves room for shifts of up to a whole row; the count is the same in every epoch
        self._train_rows = max(1, self.tokens.num_tokens // self.length - 1)
        self._slack = max(0, self.tokens.num_tokens - 1 - self._train_rows * self.length)
        self._order = counter.EpochOrder(self._train_rows)

    def rows(self, epoch: int | None, seed: int) -> int:
        return slices.num_sequential(self.tokens, self.length) if epoch is None else self._train_rows

    def take(self, rows_B: np.ndarray, epoch: int | None, seed: int) -> dict[str, np.ndarray]:
        if epoch is None:
            return slices.sequential(self.tokens, rows_B, self.length)
        shift = int(counter.below(np.zeros(1), self._slack + 1, seed, epoch, SHIFT)[0])
        return slices.shifted(self.tokens.tokens, shift + self._order(rows_B, epoch, seed) * self.length, self.length)
