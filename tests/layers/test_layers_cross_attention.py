"""Cross-attention: equal to a loop in numpy, blind to padding and other documents, prepared once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.attention import Context, Score
from decoder_lab.layers.cross_attention import CrossAttention
from decoder_lab.layers.memory import Memory

pytestmark = pytest.mark.usefixtures("strict_numerics")
B, T, S, D, N, K, H = 3, 5, 7, 12, 4, 2, 3
X = jax.random.normal(jax.random.key(0), (B, T, D))
VALUES = jax.random.normal(jax.random.key(1), (B, S, D + 2))
SEGMENTS = jnp.asarray([[1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 2, 2, 0], [0] * S])
TARGETS = jnp.asarray([[1, 1, 1, 1, 0], [1, 1, 2, 2, 2], [1, 1, 1, 1, 1]])


def context(values=VALUES, segments=SEGMENTS, targets=TARGETS):
    positions = jnp.zeros((1, T), jnp.int32)
    return Context(positions, positions, targets, targets, memory=Memory(values, segments))


@functools.cache
def made(**kw):
    layer = CrossAttention(D, **{"num_heads": N, "num_kv_heads": K, "head_dim": H, "stddev": 0.5, "out_stddev": 0.5, **kw})
    return layer, layer.init(jax.random.key(2), X, context())


def test_equals_the_equation_entry_by_entry():
    layer, variables = made()
    p = jax.tree.map(np.asarray, variables["params"])
    q, k, v = ((np.asarray(x) @ p[n]["kernel"] + p[n]["bias"]) for x, n in ((X, "query"), (VALUES, "key"), (VALUES, "value")))
    q, k, v = q.reshape(B, T, N, H), k.reshape(B, S, K, H), v.reshape(B, S, K, H)
    expected = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        target = TARGETS[b, t]
        seen = [s for s in range(S) if target and SEGMENTS[b, s] and (b == 0 or SEGMENTS[b, s] == target)]
        if seen:
            logits = k[b, seen, n // 2] @ q[b, t, n] / np.sqrt(H)
            weights = np.exp(logits) / np.exp(logits).sum()
            expected[b, t, n] = weights @ v[b, seen, n // 2]
    expected = expected.reshape(B, T, N * H) @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, X, context()), expected, atol=1e-5)


@pytest.mark.parametrize("score", Score.__args__)
def test_prepared_once_equals_worked_out_in_every_call_for_every_score(score):
    layer, variables = made(score=score, qk_norm=True)
    direct = layer.apply(variables, X, context())
    prepared = layer.apply(variables, VALUES, method="prepare")
    assert prepared["key"].shape == (B, K, S, H)
    np.testing.assert_allclose(layer.apply(variables, X, context(VALUES * 0), prepared), direct, atol=1e-6)


def test_padding_of_the_memory_is_never_read_and_an_empty_row_has_finite_gradients():
    """KNOWN_BUGS 7: whatever is finite in padding stays there; a source without any token gives the last map's bias, finite gradients."""
    layer, variables = made()
    wild = jnp.where(SEGMENTS[:, :, None] == 0, 1e30, VALUES)
    np.testing.assert_array_equal(layer.apply(variables, X, context(wild)), layer.apply(variables, X, context()))
    out = layer.apply(variables, X, context())
    np.testing.assert_array_equal(out[2], jnp.broadcast_to(variables["params"]["out"]["bias"], (T, D)))
    gradients = jax.jit(jax.grad(lambda x, values: jnp.sum(layer.apply(variables, x, context(values)) ** 2), (0, 1)))(X, VALUES)
    assert all(np.isfinite(g).all() for g in gradients)
    assert not gradients[1][2].any() and gradients[1][0, 0].any()


@pytest.mark.parametrize("predict", [False, True])
def test_local_attention_equals_luongs_equations_entry_by_entry(predict):
    """Luong et al. 2015, section 3.2: keys within D of the target's position, or of one that each head predicts, with a Gaussian."""
    layer, variables = made(window=1, predict_centre=predict)
    p = jax.tree.map(np.asarray, variables["params"])
    positions = jnp.asarray([[0, 1, 2, 3, 0], [0, 1, 0, 1, 2], [0, 1, 2, 3, 4]])
    where = context().replace(q_positions_BT=positions)
    out, sown = jax.jit(lambda v: layer.apply(v, X, where, mutable=["attention"]))(variables)
    (weights,) = sown["attention"]["weights"]
    q, k, v = ((np.asarray(x) @ p[n]["kernel"] + p[n]["bias"]) for x, n in ((X, "query"), (VALUES, "key"), (VALUES, "value")))
    q, k, v = q.reshape(B, T, N, H), k.reshape(B, S, K, H), v.reshape(B, S, K, H)
    mixed = np.zeros((B, T, N, H))
    for b, t, n in np.ndindex(B, T, N):
        seen = [s for s in range(S) if TARGETS[b, t] and SEGMENTS[b, s] and (b == 0 or SEGMENTS[b, s] == TARGETS[b, t])]
        centre, want = float(positions[b, t]), np.zeros(S)
        if predict:
            hidden = np.tanh(np.asarray(X[b, t]) @ p["centre"]["kernel"])[n * H : (n + 1) * H]
            centre = len(seen) / (1 + np.exp(-hidden @ p["centre_vector"][n]))
        near = [s for place, s in enumerate(seen) if abs(place - centre) <= 1]
        if near:
            logits = k[b, near, n // 2] @ q[b, t, n] / np.sqrt(H)
            want[near] = np.exp(logits) / np.exp(logits).sum()
        if predict:
            want[seen] *= np.exp(-2 * (np.arange(len(seen)) - centre) ** 2)
        np.testing.assert_allclose(weights[b, n, t], want, atol=1e-5)
        mixed[b, t, n] = want @ v[b, :, n // 2]
    np.testing.assert_allclose(out, mixed.reshape(B, T, N * H) @ p["out"]["kernel"] + p["out"]["bias"], atol=1e-5)


def test_weights_are_sown_only_where_they_are_asked_for():
    layer, variables = made()
    assert set(variables) == {"params"}
    _, sown = jax.jit(lambda v: layer.apply(v, X, context(), mutable=["attention"]))(variables)
    (weights,) = sown["attention"]["weights"]
    assert weights.shape == (B, N, T, S) and weights.dtype == jnp.float32
    np.testing.assert_allclose(weights[0, :, :4].sum(-1), 1.0, rtol=1e-6)
    assert not weights[0, :, :, 3:].any() and not weights[2].any() and not weights[1, :, :2, 4:].any()
