"""What masking and span corruption hide: how much, never padding, and nothing is lost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops import corruption

pytestmark = pytest.mark.usefixtures("strict_numerics")
B, T, V, MASK = 64, 40, 30, 30
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)
ELIGIBLE = (jnp.arange(T)[None] < jnp.arange(B)[:, None]) & (TOKENS != 3)  # rows of 0, 1, 2, ... tokens


@functools.cache
def masked(seed=0, **kw):
    mask = functools.partial(corruption.mask_tokens, rate=0.15, mask_id=MASK, vocab_size=V, **kw)
    keys = corruption.row_keys(TOKENS, None if seed is None else jax.random.key(seed))
    return jax.tree.map(np.asarray, jax.jit(mask)(keys, TOKENS, ELIGIBLE))


def test_a_share_of_the_eligible_is_chosen_and_nothing_else_changes():
    found = masked()
    assert found.places_BK.shape == (B, 6)
    for row in range(B):
        eligible = np.flatnonzero(ELIGIBLE[row])
        chosen = found.places_BK[row, found.weights_BK[row] > 0]
        assert len(chosen) == (0 if not len(eligible) else max(1, round(0.15 * len(eligible))))
        assert len(set(chosen)) == len(chosen) and set(chosen) <= set(eligible)
        np.testing.assert_array_equal(found.labels_BK[row], TOKENS[row, found.places_BK[row]])
        rest = np.setdiff1d(np.arange(T), chosen)
        np.testing.assert_array_equal(found.tokens_BT[row, rest], TOKENS[row, rest])


def test_the_chosen_are_shown_in_the_shares_of_the_paper():
    shown, labels = [], []
    for seed in range(30):
        found = masked(seed)
        there = found.weights_BK > 0
        shown.append(np.take_along_axis(found.tokens_BT, found.places_BK, axis=1)[there])
        labels.append(found.labels_BK[there])
    shown, labels = np.concatenate(shown), np.concatenate(labels)
    assert abs(np.mean(shown == MASK) - 0.8) < 0.02
    assert abs(np.mean(shown == labels) - (0.1 + 0.1 / V)) < 0.02
    assert shown.min() >= 0 and shown.max() == MASK
    assert (masked(0, mask_share=0.0, random_share=0.0).tokens_BT == TOKENS).all()


def test_training_draws_anew_and_evaluation_depends_on_the_row_only():
    assert not np.array_equal(masked(0).places_BK, masked(1).places_BK)
    keys = corruption.row_keys(TOKENS, None)
    alone = corruption.row_keys(TOKENS[7:9], None)
    np.testing.assert_array_equal(jax.random.key_data(keys)[7:9], jax.random.key_data(alone))
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == B
    assert len(np.unique(jax.random.key_data(corruption.row_keys(TOKENS.at[:, 5].set(jnp.arange(B) % V), None)), axis=0)) == B


def test_sizes_are_those_of_t5():
    """Its 512 inputs come from rows of 568 tokens, its targets are 114 long (Raffel et al. 2020's code, random_spans_helper)."""
    assert corruption.span_sizes(568, 0.15, 3.0) == (85, 28, 512, 114)


@functools.cache
def spans(rate=0.15, mean=3.0, length=T):
    real = jnp.arange(length)[None] < jnp.arange(B)[:, None]
    find = jax.vmap(functools.partial(corruption.noise_spans, rate=rate, mean_span=mean))
    return np.asarray(real), np.asarray(jax.jit(find)(jax.random.split(jax.random.key(1), B), real))


@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.5, 1.0), (0.5, 10.0), (0.9, 2.0)])
def test_spans_cover_the_share_in_order_and_never_padding(rate, mean):
    real, span = spans(rate, mean)
    assert not span[~real].any()
    for row in range(B):
        total, found = real[row].sum(), span[row]
        noise = (found > 0).sum()
        assert noise == (0 if total < 2 else min(max(round(total * rate), 1), total - 1))
        runs = found[np.flatnonzero(np.diff(np.concatenate([[0], found])) != 0)]
        numbers = runs[runs > 0]
        np.testing.assert_array_equal(numbers, np.arange(1, len(numbers) + 1))
        assert len(numbers) == (min(max(round(noise / mean), 1), noise, total - noise) if noise else 0)
        assert total == 0 or found[0] == 0


def test_inputs_and_targets_together_hold_the_text():
    real, span = spans()
    size = corruption.span_sizes(T, 0.15, 3.0)
    hide = functools.partial(corruption.hide_spans, first_sentinel=99, eos_id=77, num_inputs=size.inputs, num_targets=size.targets)
    inputs, input_segments, labels, label_segments = map(np.asarray, jax.jit(jax.vmap(hide))(TOKENS, jnp.asarray(real), jnp.asarray(span)))
    for row in range(B):
        text, answer = inputs[row, input_segments[row] > 0].tolist(), labels[row, label_segments[row] > 0].tolist()
        assert not inputs[row, len(text) :].any() and not labels[row, len(answer) :].any()
        if not real[row].any():
            assert text == answer == []
            continue
        assert text.pop() == 77 and (not span[row].any() or answer.pop() == 77)
        found = {}
        for token in answer:
            if token > 77:
                found[token] = []
            else:
                found[max(found) - len(found) + 1].append(token)
        assert list(found) == [99 - i for i in range(span[row].max())]
        restored = [t for token in text for t in (found[token] if token > 77 else [token])]
        np.testing.assert_array_equal(restored, TOKENS[row, real[row]])
