"""Masks: causality, windows, documents, and the softmax that leaves a row empty."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops import masks

pytestmark = pytest.mark.usefixtures("strict_numerics")


@pytest.mark.parametrize("window", [None, 1, 3])
def test_visible_equals_its_definition_pair_by_pair(window):
    q_order, k_order = np.array([[4, 0, 7]]), np.array([[0, 1, 4, 6, 7]])
    mask = np.asarray(masks.visible(jnp.asarray(q_order), jnp.asarray(k_order), window=window))
    for t, q in enumerate(q_order[0]):
        for s, k in enumerate(k_order[0]):
            assert mask[0, t, s] == (k <= q and (window is None or q - k < window))


def test_a_window_without_causality_reaches_both_ways():
    order = jnp.arange(6)[None]
    mask = np.asarray(masks.visible(order, order, causal=False, window=2))[0]
    np.testing.assert_array_equal(mask, np.abs(np.subtract.outer(np.arange(6), np.arange(6))) < 2)


def test_padding_neither_attends_nor_is_attended():
    segments = jnp.asarray([[0, 1, 1, 2, 0]])
    mask = np.asarray(masks.same_segment(segments, segments))[0]
    assert not mask[:, [0, 4]].any() and not mask[[0, 4]].any()
    assert mask[1, 2] and mask[3, 3] and not mask[1, 3]


def test_targets_read_the_document_of_their_number_where_a_memory_holds_several():
    memory = jnp.asarray([[1, 1, 2, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    targets = jnp.asarray([[1, 2, 3, 0], [1, 2, 3, 0], [1, 1, 1, 0]])
    mask = np.asarray(masks.same_segment(*masks.readable(targets, memory)))
    np.testing.assert_array_equal(mask[0], np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool))
    np.testing.assert_array_equal(mask[1], np.array([[1, 1, 1, 0]] * 3 + [[0, 0, 0, 0]], bool))
    assert not mask[2].any()


def test_positions_count_in_every_document_wherever_padding_stands():
    segments = jnp.asarray([[0, 0, 1, 1, 0, 1, 2, 2, 0], [1, 1, 1, 2, 3, 3, 0, 0, 0], [0] * 9])
    expected = [[0, 0, 0, 1, 0, 2, 0, 1, 0], [0, 1, 2, 0, 0, 1, 0, 0, 0], [0] * 9]
    np.testing.assert_array_equal(masks.positions_in_segments(segments), expected)


def test_a_row_with_nothing_to_attend_gives_zeros_and_zero_gradients():
    """KNOWN_BUGS 7: no NaN forwards or backwards, even where masked logits are infinite or not numbers."""
    logits = jnp.asarray([[1.0, 2.0, 3.0], [4.0, jnp.nan, jnp.inf], [jnp.nan, jnp.inf, -jnp.inf]])
    mask = jnp.asarray([[True, True, False], [True, False, False], [False] * 3])
    weights, pullback = jax.vjp(lambda x: masks.softmax(x, mask), logits)
    e = math.exp(1)
    np.testing.assert_allclose(weights, [[1 / (1 + e), e / (1 + e), 0], [1, 0, 0], [0, 0, 0]], rtol=1e-6)
    (gradient,) = pullback(jnp.asarray([[1.0, 2.0, 4.0]] * 3))
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[1:].any() and not gradient[0, 2]
    np.testing.assert_allclose(gradient[0, 1], e / (1 + e) ** 2, rtol=1e-5)


def test_without_a_mask_it_is_the_softmax():
    logits = jnp.asarray([[1.0, -2.0, 3.0], [0.0, 0.5, 0.0]])
    np.testing.assert_allclose(masks.softmax(logits, None), jax.nn.softmax(logits, axis=-1))
