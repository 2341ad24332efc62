"""The spans of keys that blocks of queries meet."""

import itertools

import numpy as np
import pytest

from decoder_lab.ops.blocked_attention import spans


@pytest.mark.parametrize("window", [None, 1, 20, 64])
@pytest.mark.parametrize("length", [1, 16, 50])
def test_blocks_cover_every_visible_pair_and_skip_the_rest(length, window):
    covered = np.zeros((length, length), bool)
    for start, end, first, last in spans(length, length, 16, causal=True, window=window):
        covered[start:end, first:last] = True
    for t, s in itertools.product(range(length), repeat=2):
        visible = s <= t and (window is None or t - s < window)
        assert covered[t, s] or not visible
    assert covered.sum() <= length * (length + 16) / 2 or window is not None
    if window == 1:
        assert covered.sum() <= length * 32


def test_without_causality_each_block_meets_all_keys():
    assert spans(20, 7, 16, causal=False, window=3) == ((0, 16, 0, 7), (16, 20, 0, 7))
