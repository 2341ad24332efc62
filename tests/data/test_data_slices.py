import numpy as np
import pytest

from decoder_lab.data import slices
from decoder_lab.data.cache import TokenCache


@pytest.mark.parametrize("num_tokens, length", [(2, 1), (2, 8), (9, 8), (10, 8), (17, 8), (100, 7)])
def test_every_token_but_the_first_is_a_label_once(num_tokens, length):
    tokens = TokenCache.in_memory([np.arange(num_tokens) + 100])
    rows = slices.sequential(tokens, np.arange(slices.num_sequential(tokens, length)), length)
    real = rows["weights"] > 0
    assert rows["labels"][real].tolist() == list(range(101, 100 + num_tokens))
    assert rows["tokens"][real].tolist() == list(range(100, 99 + num_tokens))
    assert not real[:-1].size or real[:-1].all()  # only the last row is partly filled
    assert (rows["labels"][~real] == 0).all()
    assert real.any(axis=1).all()
