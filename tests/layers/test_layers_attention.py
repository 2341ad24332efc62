"""The attention layer: names and shapes of its parameters, grouped queries, writing into a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.attention import Attention, Context

pytestmark = pytest.mark.usefixtures("strict_numerics")
B, T, D, H = 2, 6, 16, 4


def make(**kw):
    layer = Attention(**{"num_heads": 4, "num_kv_heads": 2, "head_dim": H, "stddev": 0.3, "out_stddev": 0.3, **kw})
    x = jax.random.normal(jax.random.key(0), (B, T, D))
    context = Context(jnp.arange(T)[None], jnp.arange(T)[None])
    return layer, layer.init(jax.random.key(1), x, context), x, context


def test_parameters_have_separate_two_dimensional_kernels():
    _, params, _, _ = make(qk_norm=True, qkv_bias=False)
    shapes = jax.tree.map(jnp.shape, params["params"])
    assert shapes == {
        "query": {"kernel": (D, 4 * H)},
        "key": {"kernel": (D, 2 * H)},
        "value": {"kernel": (D, 2 * H)},
        "out": {"kernel": (4 * H, D), "bias": (D,)},
        "query_norm": {"scale": (H,)},
        "key_norm": {"scale": (H,)},
    }


def test_grouped_queries_equal_full_heads_with_repeated_keys_and_values():
    layer, params, x, context = make()
    full, _, _, _ = make(num_kv_heads=4)
    p = params["params"]

    def repeat(tree):
        return jax.tree.map(lambda a: a.reshape(*a.shape[:-1], 2, H).repeat(2, axis=-2).reshape(*a.shape[:-1], 4 * H), tree)

    repeated = {**p, "key": repeat(p["key"]), "value": repeat(p["value"])}
    got, _ = jax.jit(layer.apply)(params, x, context)
    want, _ = jax.jit(full.apply)({"params": repeated}, x, context)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_qk_norm_makes_the_scale_of_the_keys_irrelevant():
    layer, params, x, context = make(qk_norm=True)
    p = params["params"]
    louder = {**p, "key": jax.tree.map(lambda a: 10 * a, p["key"])}
    np.testing.assert_allclose(layer.apply(params, x, context)[0], layer.apply({"params": louder}, x, context)[0], atol=1e-3)


@pytest.mark.parametrize("layer_index", [None, 1])
def test_a_cache_is_written_at_the_index_and_nowhere_else(layer_index):
    layer, params, x, _ = make()
    size, index = 10, 3
    shape = (B, 2, size, H) if layer_index is None else (B, 3, 2, size, H)
    cache = {"key": jnp.full(shape, 7.0), "value": jnp.full(shape, 7.0)}
    positions = index + jnp.arange(T)[None]
    context = Context(
        positions, jnp.arange(size)[None], jnp.ones((B, T), jnp.int32), jnp.ones((B, size), jnp.int32), index=jnp.asarray(index)
    )
    layer_of = None if layer_index is None else jnp.asarray(layer_index)
    _, new = jax.jit(layer.apply)(params, x, context, cache, layer_of)
    for name in ("key", "value"):
        kernel = params["params"][name]["kernel"]
        written = np.asarray(new[name])
        mine = written if layer_index is None else written[:, layer_index]
        expected_BKTH = (x @ kernel).reshape(B, T, 2, H).transpose(0, 2, 1, 3)
        np.testing.assert_allclose(mine[:, :, index : index + T], expected_BKTH, atol=1e-5)
        assert (np.delete(mine, np.s_[index : index + T], axis=2) == 7).all()
        assert layer_index is None or (np.delete(written, layer_index, axis=1) == 7).all()


@pytest.mark.parametrize("window", [None, 3])
def test_written_in_two_parts_equals_at_once(window):
    layer, params, x, context = make(window=window)
    whole, _ = jax.jit(layer.apply)(params, x, context)
    cache = {name: jnp.zeros((B, 2, 8, H)) for name in ("key", "value")}
    parts, ones = [], jnp.ones((B, 8), jnp.int32)
    for start, end in ((0, 4), (4, 6)):
        filled = jnp.where(jnp.arange(8)[None] < end, ones, 0)
        part = Context(jnp.arange(start, end)[None], jnp.arange(8)[None], ones[:, start:end], filled, index=jnp.asarray(start))
        out, cache = jax.jit(layer.apply)(params, x[:, start:end], part, cache)
        parts.append(out)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-5)
