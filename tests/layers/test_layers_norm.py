"""Norms against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.norm import Norm

pytestmark = pytest.mark.usefixtures("strict_numerics")


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_equals_its_definition_in_float32(kind, dtype):
    x = (100 + jax.random.normal(jax.random.key(0), (2, 3, 64))).astype(dtype)
    layer = Norm(kind, dtype=dtype)
    params = jax.tree.map(lambda p: p + 0.5, layer.init(jax.random.key(0), x))
    y = np.asarray(x, np.float64)
    if kind == "layer":
        y -= y.mean(-1, keepdims=True)
    expected = 1.5 * y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) + (0.5 if kind == "layer" else 0)
    got = layer.apply(params, x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=2e-4 if dtype == jnp.float32 else 2e-2)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_gradients_equal_finite_differences(kind):
    from jax.test_util import check_grads

    layer = Norm(kind)
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))
    params = layer.init(jax.random.key(0), x)
    check_grads(jax.jit(layer.apply), (params, x), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_bias_only_where_it_belongs():
    x = jnp.ones((1, 4))
    for kind, use_bias, names in (("layer", True, {"scale", "bias"}), ("layer", False, {"scale"}), ("rms", True, {"scale"})):
        assert set(Norm(kind, use_bias).init(jax.random.key(0), x)["params"]) == names


def test_a_row_of_zeros_has_finite_gradients():
    """KNOWN_BUGS 7: padding may be all zeros."""
    for kind in ("layer", "rms"):
        layer = Norm(kind)
        params = layer.init(jax.random.key(0), jnp.zeros((1, 4)))
        gradient = jax.grad(lambda x, layer=layer, params=params: layer.apply(params, x).sum())(jnp.zeros((1, 4)))
        assert np.isfinite(np.asarray(gradient)).all()


def test_rms_plus_one_is_rms_with_one_more():
    """Gemma's norm: its scale begins at zero, and one is added to it."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))
    scale = jax.random.normal(jax.random.key(1), (8,))
    plain, plus = Norm("rms"), Norm("rms_plus_one")
    assert not plus.init(jax.random.key(0), x)["params"]["scale"].any()
    got = jax.jit(plus.apply)({"params": {"scale": scale}}, x)
    np.testing.assert_allclose(got, jax.jit(plain.apply)({"params": {"scale": 1 + scale}}, x), rtol=1e-6)
