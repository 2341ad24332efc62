"""The attention of recurrent decoders: each kind against its equation, masks, windows, what is handed out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.alignment import Alignment
from decoder_lab.ops import alignment as ops

pytestmark = pytest.mark.usefixtures("strict_numerics")
B, T, S, D, C, A = 2, 3, 5, 4, 4, 6
KINDS = ("additive", "dot", "general", "concat", "scaled_dot")
EVERYTHING = jnp.ones((B, T, S), bool)


def made(kind, **kw):
    layer = Alignment(kind, D if kind == "general" else A, **kw)
    query, values = jax.random.normal(jax.random.key(0), (B, T, D)), jax.random.normal(jax.random.key(1), (B, S, C))
    where = dict(q_positions_BT=jnp.arange(T)[None], k_positions_BS=jnp.arange(S)[None])

    def both(layer, query, values, mask):
        return layer(query, layer.prepare(values), layer.prepare_values(values), mask, **where)

    params = layer.init(jax.random.key(2), query, values, EVERYTHING, method=both)
    return layer, params, query, values, lambda p, q, v, m, **kw: layer.apply(p, q, v, m, method=both, **kw)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_equation(kind):
    _, params, query, values, run = made(kind)
    if kind == "additive":
        params["params"]["key"]["bias"] = jax.random.normal(jax.random.key(3), (A,))
    p = params.get("params", {})
    logits = {
        "dot": lambda: ops.dot(query, values),
        "general": lambda: ops.general(query, values, p["key"]["kernel"]),
        "concat": lambda: ops.concat(query, values, jnp.concatenate([p["query"]["kernel"], p["key"]["kernel"]]), p["vector"]),
        "additive": lambda: ops.additive(
            query @ p["query"]["kernel"], values @ p["key"]["kernel"] + p["key"]["bias"][None, None], p["vector"]
        ),
        "scaled_dot": lambda: ops.scaled_dot(query @ p["query"]["kernel"], values @ p["key"]["kernel"]),
    }[kind]()
    mask = EVERYTHING.at[0, 1, 2:].set(False)
    context, weights = jax.jit(run)(params, query, values, mask)
    want = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), axis=-1)
    np.testing.assert_allclose(weights[:, 0], want, atol=1e-5)
    np.testing.assert_allclose(context, jnp.einsum("BTS,BSC->BTC", want, values), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_equal_a_loop_in_numpy(kind):
    """Vaswani et al. 2017, section 3.2.2, for every score: each head compares and mixes its own columns; local-p with a centre of each."""
    _, params, query, values, run = made(kind, num_heads=2, window=2, predict_centre=True)
    mask = EVERYTHING.at[0, 1, 2:].set(False).at[1, 2].set(False)
    context, weights = jax.jit(run)(params, query, values, mask)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    q, h = np.asarray(query, np.float64), np.asarray(values, np.float64)
    projected = [h @ p["value"]["kernel"], q @ p["query"]["kernel"] if "query" in p else q, h @ p["key"]["kernel"] if "key" in p else h]
    projected[2] = projected[2] + p["key"].get("bias", 0.0) if "key" in p else projected[2]
    *projected, hidden = (np.split(x, 2, axis=-1) for x in (*projected, np.tanh(q @ p["centre"]["kernel"])))
    vectors = [np.split(p[name], 2) if name in p else None for name in ("vector", "centre_vector")]
    for b, t, n in np.ndindex(B, T, 2):
        v_SH, q_H, k_SH = projected[0][n][b], projected[1][n][b, t], projected[2][n][b]
        seen = np.flatnonzero(mask[b, t])
        centre = len(seen) / (1 + np.exp(-hidden[n][b, t] @ vectors[1][n]))
        near = [s for s in seen if abs(s - centre) <= 2]
        logits = np.tanh(q_H + k_SH) @ vectors[0][n] if kind in ("additive", "concat") else k_SH @ q_H
        logits = (logits / np.sqrt(len(q_H)) if kind == "scaled_dot" else logits)[near]
        want = np.zeros(S)
        want[near] = np.exp(logits) / np.exp(logits).sum() * np.exp(-((np.array(near) - centre) ** 2) / 2)
        np.testing.assert_allclose(weights[b, n, t], want, atol=1e-5)
        np.testing.assert_allclose(np.split(np.asarray(context[b, t]), 2)[n], want @ v_SH, atol=1e-5)


def test_one_head_has_the_parameters_of_the_papers_and_reads_the_values_as_they_are():
    layer, params, _, values, _ = made("additive", window=2, predict_centre=True)
    assert set(params["params"]) == {"query", "key", "vector", "centre", "centre_vector"}
    np.testing.assert_array_equal(layer.apply(params, values, method="prepare_values"), values)


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_with_nothing_to_see_gets_zeros_and_finite_gradients(kind):
    """KNOWN_BUGS 7."""
    _, params, query, values, run = made(kind)
    mask = EVERYTHING.at[1].set(False)
    context, weights = run(params, query, values, mask)
    assert not np.asarray(context)[1].any() and not np.asarray(weights)[1].any()
    gradients = jax.grad(lambda *x: run(*x, mask)[0].sum(), argnums=(0, 1, 2))(params, query, values)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert not np.asarray(gradients[2])[1].any()


def test_a_window_follows_the_position():
    """Luong et al. 2015, local-m."""
    _, params, query, values, run = made("dot", window=1)
    _, weights = run(params, query, values, EVERYTHING)
    assert ((np.asarray(weights) > 0) == (np.abs(np.arange(S)[None] - np.arange(T)[:, None]) <= 1)[None, None]).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)


def test_a_predicted_centre_moves_the_window_and_is_learned():
    """Luong et al. 2015, local-p: weights fall off from the centre, and the centre's parameters have a gradient."""
    _, params, query, values, run = made("additive", window=2, predict_centre=True)
    params["params"]["query"]["kernel"] *= 0.0
    params["params"]["key"]["kernel"] *= 0.0
    flat, gradient = run(params, query, values, EVERYTHING)[1], jax.grad(lambda p: run(p, query, values, EVERYTHING)[0].sum())(params)
    assert np.abs(np.asarray(gradient["params"]["centre"]["kernel"])).max() > 1e-4
    hidden = np.tanh(query @ params["params"]["centre"]["kernel"])
    centre = S / (1 + np.exp(-hidden @ params["params"]["centre_vector"]))
    distance = np.arange(S)[None, None] - centre[:, :, None]
    inside = np.abs(distance) <= 2
    want = np.where(inside, np.exp(-(distance**2) / 2) / inside.sum(-1, keepdims=True), 0)  # 2 (D / 2)^2 = 2
    np.testing.assert_allclose(flat[:, 0], want, atol=1e-5)


def test_weights_are_handed_out_to_who_asks():
    _, params, query, values, run = made("general")
    (_, weights), asked = run(params, query, values, EVERYTHING, mutable=["attention"])
    assert asked["attention"]["weights"][0].shape == (B, 1, T, S) and asked["attention"]["weights"][0].dtype == jnp.float32
    np.testing.assert_array_equal(asked["attention"]["weights"][0], weights)
    assert set(params) == {"params"}


def test_dot_needs_equal_widths_and_says_so():
    layer = Alignment("dot", A)
    with pytest.raises(ValueError, match='as wide as keys, got 3 and 4.*"general"'):
        layer.apply({}, jnp.zeros((1, 1, 3)), jnp.zeros((1, 2, 4)), jnp.zeros((1, 2, 4)), jnp.ones((1, 1, 2), bool))
