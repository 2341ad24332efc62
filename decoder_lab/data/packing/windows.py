"""Random crops: every row starts at a place drawn with replacement, as in nanoGPT. Evaluation is the sequential pass of `split`."""

import dataclasses

import numpy as np

from decoder_lab.data import counter, slices
from decoder_lab.data.cache import TokenCache


@dataclasses.dataclass
class Packing:
    """Rows of `length` inputs; an epoch is as many rows as hold the stream once. Batch keys: tokens, labels, weights [B,T]."""

    tokens: TokenCache
    length: int

    def rows(self, epoch: int | None, seed: int) -> int:
        return slices.num_sequential(self.tokens, self.length)

    def take(self, rows_B: np.ndarray, epoch: int | None, seed: int) -> dict[str, np.ndarray]:
        if epoch is None:
            return slices.sequential(self.tokens, rows_B, self.length)
        places = max(1, self.tokens.num_tokens - self.length)  # of a first token whose row still has all its labels
        return slices.shifted(self.tokens.tokens, counter.below(np.asarray(rows_B), places, seed, epoch), self.length)
