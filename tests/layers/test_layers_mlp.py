"""Feed-forward blocks against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers import mlp

pytestmark = pytest.mark.usefixtures("strict_numerics")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "gelu": gelu_tanh,
    "gelu_exact": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
    "silu": lambda x: x * sigmoid(x),
    "swiglu": lambda x: x * sigmoid(x),
    "geglu": gelu_tanh,
}


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_it_equals_its_formula(kind):
    layer = mlp.Mlp(8, kind, stddev=1.0, out_stddev=1.0)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params = layer.init(jax.random.key(1), x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)["params"]
    up = np.asarray(x, np.float64) @ p["up"]["kernel"]
    gate = np.asarray(x, np.float64) @ p["gate"]["kernel"] if kind in mlp.GATED else None
    hidden = FORMULAS[kind](up) if gate is None else FORMULAS[kind](gate) * up
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x), hidden @ p["down"]["kernel"], rtol=1e-4, atol=1e-4)


def test_every_kind_has_a_formula_here():
    assert set(mlp.ACTIVATIONS) == set(FORMULAS)


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_gradients_are_finite_in_bfloat16_far_from_zero(kind):
    layer = mlp.Mlp(8, kind, dtype=jnp.bfloat16)
    x = jnp.full((1, 2, 4), 1e4)
    params = layer.init(jax.random.key(1), x)
    for gradient in jax.tree.leaves(jax.grad(lambda p: layer.apply(p, x).astype(jnp.float32).sum())(params)):
        assert np.isfinite(np.asarray(gradient)).all()
