"""The joint model: both heads read one encoder, and neither reads padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup

pytestmark = pytest.mark.usefixtures("strict_numerics")

GIVEN = dict(vocab_size=20, num_labels=5, char_vocab_size=9, num_classes=3, max_length=16, dtype=jnp.float32)


def made(**kw):
    kw = dict(encoder=dict(name="convolutional", kw=dict(filters=4, embedding_dim=5, widths=(3,)))) | kw
    model = lookup.make("model", dict(name="intent_slots", kw=kw), **GIVEN)
    params = jax.jit(lambda key: model.init(key, **batch()))(jax.random.key(0))["params"]
    return model, jax.tree.map(lambda p: p * 2 + 0.1, params)


def batch(left=0, right=0):
    tokens = np.pad([[3, 4, 5], [6, 0, 0]], ((0, 0), (left, right)), constant_values=10**6)
    words = np.array([[1, 1, 1], [1, 0, 0]])
    segments = np.pad(words, ((0, 0), (left, right)))
    starts = np.array([[0, 1, 2], [0, 0, 0]]) + left
    found = dict(tokens_BS=tokens, segments_BS=segments, starts_BW=starts, words_BW=words)
    return {k: jnp.asarray(v, jnp.int32) for k, v in found.items()}


@pytest.mark.parametrize("kw", [dict(pooling="attention"), dict(pooling="mean"), dict(intent_to_slots=True, crf=False)])
def test_padding_changes_nothing(kw):
    """KNOWN_BUGS 21."""
    model, params = made(**kw)
    run = jax.jit(lambda b: model.apply({"params": params}, **b))
    plain, more = run(batch()), run(batch(2, 3))
    np.testing.assert_allclose(more.intent_BI, plain.intent_BI, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(more.emissions_BWC[0], plain.emissions_BWC[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(more.emissions_BWC[1, 0], plain.emissions_BWC[1, 0], rtol=1e-5, atol=1e-6)


def test_the_intent_reads_the_whole_utterance_and_slots_may_read_the_intent():
    for kw in (dict(intent_to_slots=False), dict(intent_to_slots=True)):
        encoder = dict(name="bag_of_embeddings", kw=dict(ngrams=1))  # a position's vector that hangs on its token alone
        model, params = made(encoder=encoder, crf=False, **kw)
        run = jax.jit(lambda b, model=model, params=params: model.apply({"params": params}, **b))
        b = batch()
        plain, other = run(b), run(dict(b, tokens_BS=b["tokens_BS"].at[0, 2].set(9)))
        assert np.abs(np.asarray(plain.intent_BI - other.intent_BI))[0].max() > 1e-6
        moved = np.abs(np.asarray(plain.emissions_BWC - other.emissions_BWC))[0, 0].max() > 1e-6
        assert moved == kw["intent_to_slots"]


def test_both_heads_train_the_encoder():
    model, params = made()

    def loss(params, head):
        scores = model.apply({"params": params}, **batch())
        return jnp.sum(jnp.square(scores.intent_BI if head else scores.emissions_BWC))

    for head in (0, 1):
        grads = jax.jit(jax.grad(loss), static_argnums=1)(params, head)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        assert np.asarray(grads["encoder"]["token_embedding"]["embedding"]).any()
