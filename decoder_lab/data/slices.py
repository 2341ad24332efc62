"""Rows cut out of one token stream: inputs, and the same tokens one place later as labels."""

import numpy as np

from decoder_lab.data.cache import TokenCache


def shifted(tokens: np.ndarray, starts_B: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Returns tokens, labels int32 [B,T] and weights float32 [B,T]: row b reads `length` tokens from starts_B[b], labels are one later.

    Places past the stream's last label hold 0 with weight 0.
    """
    index_BT = starts_B[:, None] + np.arange(length + 1)
    there_BT = index_BT < len(tokens)
    if there_BT.all():
        row_BT = tokens[index_BT].astype(np.int32)
    else:
        row_BT = np.where(there_BT, tokens[np.minimum(index_BT, len(tokens) - 1)], 0).astype(np.int32)
    return {"tokens": row_BT[:, :-1].copy(), "labels": row_BT[:, 1:].copy(), "weights": there_BT[:, 1:].astype(np.float32)}


def num_sequential(tokens: TokenCache, length: int) -> int:
    """Rows in which every token but the first is a label exactly once, the last row partly filled."""
    return -(-(tokens.num_tokens - 1) // length)


def sequential(tokens: TokenCache, rows_B: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Row i reads the stream from i * length: the full pass of evaluation."""
    return shifted(tokens.tokens, np.asarray(rows_B, np.int64) * length, length)
