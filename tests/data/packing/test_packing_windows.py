import numpy as np
import pytest

from decoder_lab.data.cache import TokenCache
from decoder_lab.data.packing import windows


def packing(num_tokens, length):
    return windows.Packing(TokenCache.in_memory([np.arange(num_tokens)]), length)


@pytest.mark.parametrize("num_tokens", [9, 12, 50])
def test_crops_are_whole_and_start_anywhere(num_tokens):
    rows = packing(num_tokens, 8)
    batch = rows.take(np.arange(3000), 0, 0)
    assert (batch["weights"] == 1).all() and (batch["labels"] == batch["tokens"] + 1).all()
    assert set(batch["tokens"][:, 0]) == set(range(num_tokens - 8))  # the last token is a label of the last crop


def test_short_stream_is_one_partial_row():
    batch = packing(5, 8).take(np.arange(2), 0, 0)
    assert batch["weights"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]] * 2


def test_epochs_and_seeds_draw_anew_and_evaluation_is_sequential():
    rows = packing(10_000, 8)
    drawn = {tuple(rows.take(np.arange(4), e, s)["tokens"][:, 0]) for e in range(3) for s in range(3)}
    assert len(drawn) == 9
    assert rows.take(np.arange(3), None, 0)["tokens"][:, 0].tolist() == [0, 8, 16]
