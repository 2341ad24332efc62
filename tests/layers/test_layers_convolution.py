"""Convolutions over time: equal to a loop, blind to padding, other documents and the future, the same with a history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers import convolution

pytestmark = pytest.mark.usefixtures("strict_numerics")

SEGMENTS = np.array([[0, 0, 1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 2, 2, 3, 3], [1, 1, 0, 1, 2, 0, 0, 2]], np.int32)


def values(shape=(3, 8, 3), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_loop(x, segments, kernel, bias, size, causal):
    """Every output as a sum over the window's entries of the same document, in plain Python."""
    batch, length, width = x.shape
    past = size - 1 if causal else (size - 1) // 2
    kernel = kernel.reshape(size, width, -1)
    out = np.tile(bias.astype(np.float64), (batch, length, 1))
    for b in range(batch):
        for t in range(length):
            for k in range(size):
                s = t - past + k
                if 0 <= s < length and segments[b, s] == segments[b, t] != 0:
                    out[b, t] += x[b, s].astype(np.float64) @ kernel[k]
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_it_equals_a_loop_over_the_documents_own_entries(size, causal):
    """KNOWN_BUGS 4, 21; padding inside a document is a gap of zeros."""
    layer = convolution.Convolution(4, size, causal)
    x = values()
    params = layer.init(jax.random.key(0), x)
    p = {name: np.asarray(a) + 0.3 for name, a in params["params"]["linear"].items()}
    want = by_loop(x, SEGMENTS, p["kernel"], p["bias"], size, causal)
    wild = np.where((SEGMENTS == 0)[..., None], np.nan, x)
    for given in (x, wild):
        got = np.asarray(jax.jit(layer.apply)({"params": {"linear": p}}, given, SEGMENTS))
        np.testing.assert_allclose(got[SEGMENTS != 0], want[SEGMENTS != 0], atol=1e-5)
    whole = jax.jit(layer.apply)({"params": {"linear": p}}, x)
    np.testing.assert_allclose(whole, by_loop(x, np.ones_like(SEGMENTS), p["kernel"], p["bias"], size, causal), atol=1e-5)


def test_a_history_stands_for_the_entries_before():
    layer = convolution.Convolution(4, 3, causal=True)
    x = values()
    params = layer.init(jax.random.key(0), x)
    whole = jax.jit(layer.apply)(params, x, SEGMENTS)
    for start in (2, 3, 5, 7):
        history = x[:, start - 2 : start], SEGMENTS[:, start - 2 : start]
        got = jax.jit(layer.apply)(params, x[:, start:], SEGMENTS[:, start:], history)
        np.testing.assert_allclose(got, whole[:, start:], atol=1e-6)
    with pytest.raises(ValueError, match="history of 1 entries"):
        layer.apply(params, x, SEGMENTS, (x[:, :1], SEGMENTS[:, :1]))


def test_a_glu_block_equals_its_formula_and_starts_with_the_variance_of_its_input():
    """Gehring et al. 2017, section 3.5: the gate halves and squares, so the convolution before it starts four times as large."""
    layer = convolution.GatedConvolution(64, 3)
    x = values((4, 50, 64))
    params = layer.init(jax.random.key(0), x)
    out = np.asarray(jax.jit(layer.apply)(params, x))
    both = np.asarray(convolution.Convolution(128, 3).apply({"params": params["params"]["convolution"]}, x))
    np.testing.assert_allclose(out, both[..., :64] / (1 + np.exp(-both[..., 64:])), atol=1e-5)
    assert 0.7 < out.var() / x.var() < 1.8


def test_bfloat16_computes_in_bfloat16():
    layer = convolution.GatedConvolution(4, 3, dtype=jnp.bfloat16)
    x = values().astype(jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)
    assert layer.apply(params, x, SEGMENTS).dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
