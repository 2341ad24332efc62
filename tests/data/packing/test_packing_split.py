import numpy as np
import pytest

from decoder_lab.data.cache import TokenCache
from decoder_lab.data.packing import split


def packing(num_tokens, length):
    return split.Packing(TokenCache.in_memory([np.arange(num_tokens)]), length)


@pytest.mark.parametrize("num_tokens", [2, 5, 8, 9, 16, 17, 24, 25, 100, 1001])
def test_training_rows_are_disjoint_stretches_of_the_stream(num_tokens):
    rows = packing(num_tokens, 8)
    for epoch in range(6):
        batch = rows.take(np.arange(rows.rows(epoch, 3)), epoch, 3)
        real = batch["weights"] > 0
        labels = batch["labels"][real]
        assert len(set(labels)) == len(labels) == min(num_tokens - 1, 8 * rows.rows(epoch, 3))
        assert (batch["labels"] == batch["tokens"] + 1)[real].all()


def test_epochs_are_shifted_and_shuffled_and_seeds_differ():
    rows = packing(1000, 8)
    first = [rows.take(np.arange(5), e, s)["tokens"].tolist() for e in range(3) for s in range(3)]
    assert len({str(f) for f in first}) == 9
    offsets = {int(rows.take(np.arange(1), e, 0)["tokens"][0, 0]) % 8 for e in range(60)}
    assert len(offsets) == 8  # a row may begin anywhere


def test_take_is_a_pure_function_of_rows_epoch_seed():
    rows = packing(1000, 8)
    whole = rows.take(np.arange(20), 2, 5)["tokens"]
    rows.take(np.arange(3), 7, 1)
    assert np.array_equal(packing(1000, 8).take(np.array([17, 3]), 2, 5)["tokens"], whole[[17, 3]])


def test_nearly_all_tokens_are_used_in_an_epoch():
    rows = packing(10_007, 16)
    assert rows.rows(0, 0) * 16 > 10_007 - 2 * 16


def test_evaluation_is_sequential():
    rows = packing(20, 8)
    assert rows.rows(None, 0) == 3
    assert rows.take(np.arange(3), None, 0)["tokens"][:, 0].tolist() == [0, 8, 16]
