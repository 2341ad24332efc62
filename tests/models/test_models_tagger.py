"""Taggers: padding, pieces of words, the CRF on top, and one model beside the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.layers import tagging
from decoder_lab.ops import tag_schemes

pytestmark = pytest.mark.usefixtures("strict_numerics")

ENCODERS = {
    "recurrent": dict(name="recurrent", kw=dict(width=6, embedding_dim=5, bidirectional=True)),
    "convolutional": dict(name="convolutional", kw=dict(filters=4, embedding_dim=5, widths=(3,))),
}
GIVEN = dict(vocab_size=20, num_labels=5, char_vocab_size=9, num_classes=3, max_length=16, dtype=jnp.float32)


def batch():
    """Two rows: three words of 1, 2, 1 tokens; two words of 1 token."""
    rng = np.random.default_rng(0)
    return dict(
        tokens=jnp.asarray([[3, 4, 5, 6], [7, 8, 0, 0]], jnp.int32),
        segments=jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], jnp.int32),
        starts=jnp.asarray([[0, 1, 3], [0, 1, 0]], jnp.int32),
        words=jnp.asarray([[1, 1, 1], [1, 1, 0]], jnp.int32),
        chars=jnp.asarray(rng.integers(1, 9, (2, 3, 4)) * [[[1], [1], [1]], [[1], [1], [0]]], jnp.int32),
    )


def apply(model, params, b, **kw):
    fields = dict(segments_BS=b["segments"], starts_BW=b["starts"], words_BW=b["words"], chars_BWK=b["chars"])
    return model.apply({"params": params}, b["tokens"], **fields, **kw)


jitted = jax.jit(apply, static_argnums=0)


@functools.cache
def made(encoder="convolutional", **kw):
    kw = dict(encoder=ENCODERS[encoder], characters="cnn", character_dim=4, character_features=4) | kw
    model = lookup.make("model", dict(name="tagger", kw=kw), **GIVEN)
    b = batch()
    fields = dict(segments_BS=b["segments"], starts_BW=b["starts"], words_BW=b["words"], chars_BWK=b["chars"])
    params = jax.jit(lambda key: model.init(key, b["tokens"], **fields))(jax.random.key(0))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + 0.3 * jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    return model, params


def padded(b):
    """The same batch with padding left and right of tokens, after the words, of wild content."""
    wild = 10**6
    tokens = jnp.pad(b["tokens"], ((0, 0), (2, 3)), constant_values=wild)
    segments = jnp.pad(b["segments"], ((0, 0), (2, 3)))
    starts, words = jnp.pad(b["starts"] + 2, ((0, 0), (0, 2))), jnp.pad(b["words"], ((0, 0), (0, 2)))
    chars = jnp.pad(b["chars"], ((0, 0), (0, 2), (0, 3)))
    return dict(tokens=jnp.where(segments == 0, wild, tokens), segments=segments, starts=starts, words=words, chars=chars)


@pytest.mark.parametrize("encoder, characters", [("recurrent", "lstm"), ("convolutional", "cnn"), ("convolutional", "none")])
def test_padding_changes_nothing(encoder, characters):
    """KNOWN_BUGS 21: emissions of real words are the same with more padding, wild ids included; and so is a row by itself."""
    model, params = made(encoder=encoder, characters=characters)
    b = batch()
    plain, more = (jitted(model, params, x).emissions_BWC for x in (b, padded(b)))
    real = np.asarray(b["words"]) != 0
    np.testing.assert_allclose(np.asarray(more[:, :3])[real], np.asarray(plain)[real], rtol=1e-5, atol=1e-6)
    first_is_empty = {k: v.at[0].set(0) for k, v in b.items()}
    np.testing.assert_allclose(jitted(model, params, first_is_empty).emissions_BWC[1, :2], plain[1, :2], rtol=1e-5, atol=1e-6)


def test_a_word_is_read_at_its_first_piece_and_knows_its_characters():
    """KNOWN_BUGS 22: the tag of a word of several pieces hangs on its first one, found by `starts`."""
    model, params = made()
    b = batch()
    emissions = jitted(model, params, b).emissions_BWC
    chars = b["chars"].at[0, 1, 0].set(b["chars"][0, 1, 0] % 8 + 1)
    changed = np.abs(np.asarray(jitted(model, params, dict(b, chars=chars)).emissions_BWC - emissions)).max(-1) > 1e-6
    assert changed[0, 1] and not changed[1].any()
    turned = dict(b, starts=b["starts"].at[0].set(b["starts"][0, ::-1]))
    without, params = made(characters="none")
    plain, other = (jitted(without, params, x).emissions_BWC[0] for x in (b, turned))
    np.testing.assert_allclose(other, plain[::-1], rtol=1e-6)


def test_features_of_tokens_are_those_of_their_word():
    """Padding behind the last word is no piece of it."""
    features, segments = jnp.arange(1.0, 7.0).reshape(1, 3, 2), jnp.asarray([[0, 1, 1, 1, 0]], jnp.int32)
    found = tagging.of_tokens(features, jnp.asarray([[1, 2, 0]], jnp.int32), jnp.asarray([[1, 1, 0]], jnp.int32), segments)
    np.testing.assert_array_equal(found[0], [[0, 0], [1, 2], [3, 4], [3, 4], [0, 0]])


def test_losses_are_sums_over_the_words():
    """Without a CRF: the cross-entropy of each tag; with one of zero transitions: the same number; padding counts for nothing."""
    model, params = made(crf=False)
    b = batch()
    scores = jitted(model, params, b)
    tags = jnp.asarray([[0, 1, 2], [3, 4, -7]], jnp.int32)
    loss = tagging.tag_losses(scores, tags, b["words"])
    log_p = np.asarray(jax.nn.log_softmax(scores.emissions_BWC))
    expected = [-(log_p[0, 0, 0] + log_p[0, 1, 1] + log_p[0, 2, 2]), -(log_p[1, 0, 3] + log_p[1, 1, 4])]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    zero = tag_schemes.Transitions(jnp.zeros((5, 5)), jnp.zeros(5), jnp.zeros(5))
    np.testing.assert_allclose(tagging.tag_losses(scores.replace(transitions=zero), tags, b["words"]), expected, rtol=1e-5)


def test_best_tags():
    model, params = made(crf=False)
    b = batch()
    scores = jitted(model, params, b)
    plain = tagging.best_tags(scores, b["words"])
    np.testing.assert_array_equal(plain, np.where(b["words"], np.argmax(scores.emissions_BWC, -1), 0))
    names = ("O", "B-a", "I-a", "B-b", "I-b")
    best = np.asarray(tagging.best_tags(scores, b["words"], tag_schemes.allowed(names, "BIO")))
    for row, words in zip(best, np.asarray(b["words"]), strict=True):
        assert tag_schemes.first_violation([names[c] for c in row[words != 0]], "BIO") is None


@pytest.mark.parametrize("crf", [True, False])
def test_an_empty_row_has_no_loss_and_finite_gradients(crf):
    """KNOWN_BUGS 7, 22: a filler row of zeros."""
    model, params = made(crf=crf)
    b = jax.tree.map(lambda x: x.at[1].set(0), batch())
    tags = jnp.zeros((2, 3), jnp.int32)

    def loss(params):
        loss_B = tagging.tag_losses(apply(model, params, b), tags, b["words"])
        return jnp.sum(loss_B), loss_B

    (_, loss_B), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert float(loss_B[1]) == 0.0 and float(loss_B[0]) > 0
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert all(np.asarray(g).any() for g in jax.tree.leaves(grads["emission"]))


def test_the_encoder_stands_where_others_look_for_it():
    _, params = made()
    assert "token_embedding" in params["encoder"]
    assert {"crf_between", "crf_start", "crf_end"} <= params.keys()


def test_missing_characters_are_said():
    model, params = made()
    with pytest.raises(ValueError, match="chars"):
        jitted(model, params, dict(batch(), chars=None))


def test_low_precision_gives_float32_scores():
    kw = dict(encoder=ENCODERS["recurrent"], characters="lstm", character_dim=4, character_features=4, head_dim=5)
    model = lookup.make("model", dict(name="tagger", kw=kw), **{**GIVEN, "dtype": jnp.bfloat16})
    b = batch()
    fields = dict(segments_BS=b["segments"], starts_BW=b["starts"], words_BW=b["words"], chars_BWK=b["chars"])
    scores = jax.jit(lambda: model.init_with_output(jax.random.key(0), b["tokens"], **fields))()[0]
    assert scores.emissions_BWC.dtype == jnp.float32 and np.isfinite(scores.emissions_BWC).all()
