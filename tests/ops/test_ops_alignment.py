"""Scores of classical attention: against plain loops, with heads, local windows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops import alignment

pytestmark = pytest.mark.usefixtures("strict_numerics")
B, T, S, N, H, A = 2, 3, 4, 2, 5, 6
RANDOM = np.random.default_rng(0)


def array(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


Q, K, V = array(B, T, H), array(B, S, H), array(H)
GENERAL, CONCAT, V_CONCAT = array(H, H), array(2 * H, A), array(A)
SCORES = {
    "additive": (lambda q, k, p: alignment.additive(q, k, p["v"]), {"v": V}),
    "dot": (lambda q, k, p: alignment.dot(q, k), {}),
    "general": (lambda q, k, p: alignment.general(q, k, p["kernel"]), {"kernel": GENERAL}),
    "concat": (lambda q, k, p: alignment.concat(q, k, p["kernel"], p["v"]), {"kernel": CONCAT, "v": V_CONCAT}),
    "scaled_dot": (lambda q, k, p: alignment.scaled_dot(q, k), {}),
}


def naive(kind, q, k):
    """One score of one query and one key, in plain Python."""
    if kind == "additive":
        return sum(float(V[a]) * math.tanh(float(q[a]) + float(k[a])) for a in range(H))
    if kind == "general":
        return sum(float(q[i]) * float(k[j]) * float(GENERAL[j, i]) for i in range(H) for j in range(H))
    if kind == "concat":
        both = [float(x) for x in (*q, *k)]
        return sum(float(V_CONCAT[a]) * math.tanh(sum(x * float(w) for x, w in zip(both, CONCAT[:, a], strict=True))) for a in range(A))
    product = sum(float(x) * float(y) for x, y in zip(q, k, strict=True))
    return product / math.sqrt(H) if kind == "scaled_dot" else product


@pytest.mark.parametrize("kind", sorted(SCORES))
def test_equals_a_loop_in_plain_python(kind):
    score, parameters = SCORES[kind]
    got = jax.jit(score)(Q, K, parameters)
    assert got.dtype == jnp.float32
    for b in range(B):
        for t in range(T):
            for s in range(S):
                assert float(got[b, t, s]) == pytest.approx(naive(kind, Q[b, t], K[b, s]), abs=1e-5)


@pytest.mark.parametrize("kind", sorted(SCORES))
def test_heads_are_scores_side_by_side(kind):
    score, parameters = SCORES[kind]
    q, k = array(B, T, N, H), array(B, S, N, H)
    by_head = {name: array(N, *value.shape) for name, value in parameters.items()}
    got = jax.jit(score)(q, k, by_head)
    for n in range(N):
        want = score(q[:, :, n], k[:, :, n], {name: value[n] for name, value in by_head.items()})
        np.testing.assert_allclose(got[:, n], want, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(SCORES))
def test_sixteen_bit_inputs_give_float32_logits(kind):
    score, parameters = SCORES[kind]
    got = score(jnp.asarray(Q, jnp.bfloat16), jnp.asarray(K, jnp.bfloat16), parameters)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, score(Q, K, parameters), atol=0.3, rtol=0.1)


def test_local_window_and_gaussian():
    positions = jnp.asarray([[0, 1, 2, 3, 4]])
    assert alignment.local_window(jnp.asarray([[1]]), positions, 1).tolist() == [[[True, True, True, False, False]]]
    centre = jnp.asarray([[1.5]])
    assert alignment.local_window(centre, positions, 1).tolist() == [[[False, True, True, False, False]]]
    want = [math.exp(-((s - 1.5) ** 2) / (2 * (4 / 2) ** 2)) for s in range(5)]
    np.testing.assert_allclose(alignment.gaussian(centre, positions, 4)[0, 0], want, rtol=1e-6)


def test_the_predicted_centre_lies_within_the_source():
    centre = alignment.predicted_centre(jnp.asarray([[-50.0, 0.0, 50.0]]), jnp.asarray([[8, 8, 8]]))
    np.testing.assert_allclose(centre, [[0, 4, 8]], atol=1e-5)


def test_positions_restart_with_every_document_wherever_padding_lies():
    segments = jnp.asarray([[0, 1, 0, 1, 1, 2, 2, 0]])
    assert np.asarray(alignment.positions(segments))[0, [1, 3, 4, 5, 6]].tolist() == [0, 1, 2, 0, 1]
