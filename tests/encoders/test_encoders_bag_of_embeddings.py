"""The bag of embeddings: fastText's features by definition, whatever stands around them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.encoders.bag_of_embeddings import Encoder
from decoder_lab.layers import pooling
from decoder_lab.layers.ngrams import ngram_buckets

pytestmark = pytest.mark.usefixtures("strict_numerics")

V = 50


@functools.cache
def made(dtype=jnp.float32, **kw):
    model = Encoder(V, dtype, **{**dict(embedding_dim=4, num_buckets=64, ngrams=3), **kw})
    return model, jax.jit(model.init)(jax.random.key(0), tokens())["params"]


def tokens(batch=2, length=7, seed=0):
    return np.random.default_rng(seed).integers(0, V, (batch, length), dtype=np.int32)


@functools.cache
def compiled(model):
    return jax.jit(lambda p, x, s: model.apply({"params": p}, x, segments_BS=s))


def run(model, params, x, segments=None):
    return compiled(model)(params, x, segments)


def test_the_mean_is_that_of_the_tokens_and_of_their_ngrams():
    model, params = made()
    x = tokens(1)
    p = jax.tree.map(np.asarray, params)
    ones = np.ones_like(x)
    total = p["token_embedding"]["embedding"][x[0]].sum(0)
    for order in (2, 3):
        buckets = np.asarray(ngram_buckets(x, ones, order, 64))[0]
        assert (buckets[: order - 1] == 0).all() and (buckets[order - 1 :] >= 1).all() and (buckets <= 64).all()
        total += p[f"ngram_{order}_embedding"]["embedding"][buckets[order - 1 :]].sum(0)
    memory = run(model, params, x)
    np.testing.assert_allclose(pooling.mean(memory.values_BSD, memory.segments_BS)[0], total / 7, atol=1e-5)


@pytest.mark.parametrize("left, right", [(1, 0), (0, 5), (3, 2)])
def test_padding_and_other_documents_change_nothing(left, right):
    """KNOWN_BUGS 4, 21."""
    model, params = made()
    x = tokens()
    alone = run(model, params, x).values_BSD
    padded = np.pad(x, ((0, 0), (left, right)), constant_values=10**6)
    segments = np.pad(np.ones_like(x), ((0, 0), (left, right)))
    np.testing.assert_allclose(run(model, params, padded, segments).values_BSD[:, left : left + 7], alone, atol=1e-6)
    packed = run(model, params, x, np.array([[1, 1, 1, 2, 2, 2, 2]] * 2, np.int32)).values_BSD
    np.testing.assert_allclose(packed[:, 3:], run(model, params, x[:, 3:]).values_BSD, atol=1e-6)


def test_dropout_takes_whole_positions_and_gradients_stay_finite():
    model, params = made(dropout=0.5)
    train = jax.jit(lambda k: model.apply({"params": params}, tokens(4, 50), deterministic=False, rngs={"dropout": k}).values_BSD)
    dropped = (np.asarray(train(jax.random.key(0))) == 0).all(-1)
    assert 0.3 < dropped.mean() < 0.7 and not (np.asarray(run(model, params, tokens(4, 50)).values_BSD) == 0).all(-1).any()
    nothing = np.zeros((1, 7), np.int32)
    gradients = jax.grad(lambda p: model.apply({"params": p}, tokens(1), segments_BS=nothing).values_BSD.sum())(params)
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(gradients))


def test_bfloat16_and_what_is_refused():
    model, params = made(jnp.bfloat16)
    assert run(model, params, tokens()).values_BSD.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="types_BS"):
        model.apply({"params": params}, tokens(), types_BS=tokens())
