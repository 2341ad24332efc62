"""Pooling reads no padding, wherever it stands, and survives rows that are nothing else."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers import pooling

pytestmark = pytest.mark.usefixtures("strict_numerics")

KINDS = typing.get_args(pooling.Kind)
SEGMENTS = np.array([[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 2, 2], [0] * 6], np.int32)
each_kind = pytest.mark.parametrize("kind", KINDS)


def values(dtype=np.float32):
    return np.random.default_rng(0).normal(size=(4, 6, 5)).astype(dtype) - 3  # below zero, so that a padding of zeros would be a maximum


def made(kind, dtype=jnp.float32):
    layer = pooling.Pooling(kind, dtype=dtype)
    params = layer.init(jax.random.key(0), values(dtype), SEGMENTS)
    return layer, jax.tree.map(lambda a: a * 5, params)


@each_kind
def test_it_equals_its_formula_on_the_real_positions(kind):
    layer, params = made(kind)
    x = values()
    got = np.asarray(jax.jit(layer.apply)(params, x, SEGMENTS))
    for row in range(3):
        real = x[row][SEGMENTS[row] != 0].astype(np.float64)
        if kind == "attention":
            p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)["params"]
            logits = np.tanh(real @ p["hidden"]["kernel"] + p["hidden"]["bias"]) @ p["query"]["kernel"][:, 0]
            weights = np.exp(logits - logits.max())
            want = weights / weights.sum() @ real
        else:
            want = {
                "mean": real.mean(0),
                "max": real.max(0),
                "first": real[0],
                "last": real[-1],
                "max_mean": np.concatenate([real.max(0), real.mean(0)]),
            }[kind]
        np.testing.assert_allclose(got[row], want, atol=1e-5)
    np.testing.assert_array_equal(got[3], 0)


@each_kind
def test_what_padding_holds_changes_nothing(kind):
    """KNOWN_BUGS 21: padding may even hold what is no number."""
    layer, params = made(kind)
    wild = np.where((SEGMENTS == 0)[..., None], np.nan, values())
    np.testing.assert_array_equal(jax.jit(layer.apply)(params, wild, SEGMENTS), jax.jit(layer.apply)(params, values(), SEGMENTS))


@each_kind
def test_gradients_are_finite_and_zero_in_padding(kind):
    """KNOWN_BUGS 7: also in the row that is nothing but padding."""
    layer, params = made(kind)
    loss = jax.jit(jax.grad(lambda p, x: jnp.square(layer.apply(p, x, SEGMENTS)).sum(), argnums=(0, 1)))
    of_params, of_values = loss(params, values())
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves((of_params, of_values)))
    assert not np.asarray(of_values)[SEGMENTS == 0].any() and np.asarray(of_values)[:3].any()


@each_kind
def test_bfloat16_stays_bfloat16_and_close(kind):
    layer, params = made(kind, jnp.bfloat16)
    exact, _ = made(kind)
    got = jax.jit(layer.apply)(params, values(jnp.bfloat16), SEGMENTS)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float32), exact.apply(params, values(), SEGMENTS), atol=0.1)


def test_attention_hands_out_its_weights_where_they_are_wanted():
    layer, params = made("attention")
    assert "attention" not in layer.init(jax.random.key(0), values(), SEGMENTS)
    out, kept = layer.apply(params, values(), SEGMENTS, mutable=["attention"])
    (weights,) = kept["attention"]["weights"]
    assert weights.shape == (4, 1, 1, 6) and weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1)[:, 0, 0], [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(np.einsum("BS,BSD->BD", weights[:, 0, 0], values()), out, atol=1e-5)
