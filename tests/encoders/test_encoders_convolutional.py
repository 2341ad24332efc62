"""Convolutional encoders: padding and other documents change nothing, and max-pooling gives Kim's model."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.encoders.convolutional import VARIANTS, Encoder
from decoder_lab.layers import pooling
from decoder_lab.layers.embedding import Embedding

pytestmark = pytest.mark.usefixtures("strict_numerics")

V, S = 11, 7
STYLES = {"kim2014": dict(style="kim2014", filters=4), "stack": dict(style="stack", width=8, num_layers=2)}
each_style = pytest.mark.parametrize("style", sorted(STYLES))


@functools.cache
def made(style, dtype=jnp.float32, **kw):
    model = Encoder(V, 16, dtype, embedding_dim=6, **{**STYLES[style], **kw})
    params = jax.jit(model.init)(jax.random.key(0), tokens())["params"]
    return model, params


def tokens(batch=2, length=S, seed=0):
    return np.random.default_rng(seed).integers(0, V, (batch, length), dtype=np.int32)


@functools.cache
def compiled(model):
    return jax.jit(lambda p, x, s, kw: model.apply({"params": p}, x, segments_BS=s, **kw))


def run(model, params, x, segments=None, **kw):
    return compiled(model)(params, x, segments, kw)


@each_style
@pytest.mark.parametrize("left, right", [(0, 0), (1, 0), (7, 0), (0, 1), (0, 6), (3, 3)])
def test_padding_changes_nothing(style, left, right):
    """KNOWN_BUGS 21: left or right, wild ids included, one row among many."""
    model, params = made(style)
    x = tokens()
    alone = run(model, params, x[1:]).values_BSD
    padded = np.pad(x, ((0, 0), (left, right)), constant_values=10**6)
    segments = np.pad(np.ones_like(x), ((0, 0), (left, right)))
    memory = run(model, params, padded, segments)
    np.testing.assert_allclose(memory.values_BSD[1:, left : left + S], alone, atol=1e-5)
    np.testing.assert_array_equal(memory.segments_BS, segments)


@each_style
def test_documents_in_a_row_equal_separate_ones(style):
    """KNOWN_BUGS 4."""
    model, params = made(style)
    x = tokens(1, 9)
    memory = run(model, params, x, np.array([[1, 1, 1, 1, 2, 2, 2, 0, 0]], np.int32))
    for start, end in ((0, 4), (4, 7)):
        np.testing.assert_allclose(memory.values_BSD[:, start:end], run(model, params, x[:, start:end]).values_BSD, atol=1e-5)


@each_style
def test_gradients_stay_finite_in_a_row_of_padding_only(style):
    """KNOWN_BUGS 7."""
    model, params = made(style)
    segments = np.array([[1] * S, [0] * S], np.int32)

    def loss(params):
        memory = model.apply({"params": params}, np.where(segments == 0, -1, tokens()), segments_BS=segments)
        return jnp.square(pooling.maximum(memory.values_BSD, memory.segments_BS)).sum()

    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


def test_max_pooled_it_is_the_model_of_kim_2014():
    """Features of window width k are relu(w . x[t:t+k] + b), and the largest of each over time is kept."""
    model, params = made("kim2014", widths=(3,))
    x = tokens(1)
    table = np.asarray(params["token_embedding"]["embedding"], np.float64)
    embedded = np.pad(table[x[0]], ((1, 1), (0, 0)))
    kernel, bias = (np.asarray(params["width_3"]["linear"][n], np.float64) for n in ("kernel", "bias"))
    maps = [np.maximum(embedded[t : t + 3].reshape(-1) @ kernel + bias, 0) for t in range(S)]
    memory = run(model, params, x)
    np.testing.assert_allclose(pooling.maximum(memory.values_BSD, memory.segments_BS)[0], np.max(maps, axis=0), atol=1e-5)


@each_style
def test_a_value_sees_as_far_as_stated_and_no_further(style):
    model, params = made(style, widths=(3, 5))
    x = tokens(1)

    def values(x):
        return np.asarray(run(model, params, x).values_BSD[0])

    for t in range(S):
        changed = x.copy()
        changed[0, t] = (x[0, t] + 1) % V
        moved = np.flatnonzero((values(changed) != values(x)).any(-1))
        assert set(moved) <= set(range(max(0, t - 2), min(S, t + 3))) and t in moved  # 2 to either side in both


@each_style
def test_extra_features_and_a_given_embedding_are_used(style):
    class Parent(nn.Module):
        @nn.compact
        def __call__(self, x, extra):
            encoder = Encoder(V, 16, jnp.float32, embedding_dim=6, **STYLES[style], name="encoder")
            return encoder(x, extra_BSE=extra, embedding=Embedding(V, 6, 0.3, name="shared"))

    extra = np.ones((2, S, 3), np.float32)
    params = Parent().init(jax.random.key(0), tokens(), extra)["params"]
    assert "shared" in params and "token_embedding" not in params["encoder"]
    one, other = (Parent().apply({"params": params}, tokens(), e).values_BSD for e in (extra, -extra))
    assert not np.allclose(one, other)


@each_style
def test_dropout_only_where_asked_for(style):
    """KNOWN_BUGS 28."""
    model, params = made(style, embedding_dropout=0.5, dropout=0.5)
    np.testing.assert_array_equal(run(model, params, tokens()).values_BSD, run(model, params, tokens()).values_BSD)
    train = jax.jit(lambda k: model.apply({"params": params}, tokens(), deterministic=False, rngs={"dropout": k}).values_BSD)
    assert not np.array_equal(train(jax.random.key(0)), train(jax.random.key(1)))


@each_style
def test_bfloat16_runs_and_parameters_stay_float32(style):
    model, params = made(style, jnp.bfloat16)
    exact, _ = made(style)
    got = run(model, params, tokens()).values_BSD
    assert got.dtype == jnp.bfloat16 and {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(np.asarray(got, np.float32), run(exact, params, tokens()).values_BSD, atol=0.05)


def test_what_cannot_be_is_refused():
    model, params = made("stack")
    with pytest.raises(ValueError, match="types_BS"):
        model.apply({"params": params}, tokens(), types_BS=tokens())
    with pytest.raises(ValueError, match="17 tokens exceed the 16"):
        model.apply({"params": params}, tokens(1, 17))
    complete = {name: field.default for name, field in lookup.fields("encoder", "convolutional").items()}
    assert lookup.problems("encoder", "convolutional", complete) == []
    found = lookup.problems("encoder", "convolutional", complete | dict(widths=(), dropout=1.0, filters=0))
    assert len(found) == 3


@pytest.mark.parametrize("variant, count", [("kim2014", 100 * (12 * 300 + 3)), ("convs2s-small", None), ("convs2s", None)])
def test_sizes_of_the_presets(variant, count):
    """Beside the embeddings: Kim's has three kernels of k * 300 * 100; the stacks L kernels of 3 * D * 2D and the map before them."""
    fields = VARIANTS[variant]
    model = Encoder(V, 16, jnp.float32, **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    size = sum(a.size for name, part in shapes.items() if "embedding" not in name for a in jax.tree.leaves(part))
    if count is None:
        width = fields["width"]
        count = fields["num_layers"] * (3 * width + 1) * 2 * width + (width + 1) * width
    assert size == count
