"""Attention between context and question against the paper's formulas, with padding and with nothing to attend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers import question

pytestmark = pytest.mark.usefixtures("strict_numerics")

RNG = np.random.default_rng(0)
H, U = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((2, 5, 3), (2, 4, 3)))
CONTEXT = jnp.asarray([[0, 1, 1, 1, 0], [0, 1, 1, 1, 1]], bool)
QUESTION = jnp.asarray([[1, 1, 0, 0], [1, 1, 1, 1]], bool)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def made():
    layer = question.AttentionFlow()
    return layer, jax.tree.map(lambda p: p * 2, jax.jit(layer.init)(jax.random.key(0), H, U, CONTEXT, QUESTION))


def test_attention_flow_equals_a_loop_over_the_formulas():
    """Seo et al. 2017, equations 1 to 4; similarity w . [h; u; h * u]."""
    layer, params = made()
    found = np.asarray(jax.jit(layer.apply)(params, H, U, CONTEXT, QUESTION))
    w = np.asarray(params["params"]["similarity"]).reshape(-1)
    for b in range(2):
        words, asked = np.flatnonzero(CONTEXT[b]), np.flatnonzero(QUESTION[b])
        h, u = np.asarray(H[b]), np.asarray(U[b])
        s = np.array([[w @ np.concatenate([h[t], u[j], h[t] * u[j]]) for j in asked] for t in range(5)])
        to_context = softmax(s[words].max(axis=1))
        h_tilde = sum(a * h[t] for a, t in zip(to_context, words, strict=True))
        for t in words:
            u_tilde = softmax(s[t]) @ u[asked]
            expected = np.concatenate([h[t], u_tilde, h[t] * u_tilde, h[t] * h_tilde])
            np.testing.assert_allclose(found[b, t], expected, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing_and_an_empty_question_is_finite():
    """KNOWN_BUGS 7."""
    layer, params = made()
    wild_h, wild_u = jnp.where(CONTEXT[..., None], H, 1e4), jnp.where(QUESTION[..., None], U, -1e4)
    apply = jax.jit(layer.apply)
    plain, wild = apply(params, H, U, CONTEXT, QUESTION), apply(params, wild_h, wild_u, CONTEXT, QUESTION)
    real = np.asarray(CONTEXT)
    np.testing.assert_allclose(np.asarray(wild)[real], np.asarray(plain)[real], rtol=1e-5, atol=1e-6)
    nothing = jnp.zeros_like(QUESTION)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(layer.apply(p, H, U, CONTEXT, nothing)))))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    np.testing.assert_array_equal(apply(params, H, U, CONTEXT, nothing)[..., 3:9], 0)


def test_both_attentions_are_handed_out_to_who_asks():
    """KNOWN_BUGS 7: rows of sum 1 over what is real, zeros at padding and where there is nothing to see; they mix what is returned."""
    layer, params = made()
    run = jax.jit(lambda question: layer.apply(params, H, U, CONTEXT, question, mutable=["attention"]))
    g, sown = run(QUESTION)
    (to_question,), (to_context,) = (sown["attention"][name] for name in ("to_question", "to_context"))
    assert to_question.shape == (2, 1, 5, 4) and to_context.shape == (2, 1, 1, 5) and to_question.dtype == jnp.float32
    np.testing.assert_allclose(to_question.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(to_context.sum(-1), 1.0, rtol=1e-5)
    assert not np.asarray(to_question)[0, 0, :, 2:].any() and not np.asarray(to_context)[:, 0, 0][~np.asarray(CONTEXT)].any()
    np.testing.assert_allclose(g[..., 3:6], to_question[:, 0] @ U, atol=1e-6)
    np.testing.assert_allclose(g[..., 9:], H * (to_context[:, 0] @ H), atol=1e-6)
    assert not np.asarray(run(QUESTION.at[0].set(False))[1]["attention"]["to_question"][0])[0].any()
    assert set(params) == {"params"}


def test_features_tell_what_the_question_has_too():
    tokens = jnp.asarray([[7, 8, 0, 8, 9, 7]], jnp.int32)
    types, asked = jnp.asarray([[0, 0, 0, 1, 1, 1]], jnp.int32), jnp.asarray([[1, 1, 0]], jnp.int32)
    found = question.features_of(tokens, types, asked)
    np.testing.assert_array_equal(found[0], [[0, 0], [0, 0], [0, 0], [1, 1], [1, 0], [1, 1]])


def test_highway_layers_mix_their_input_with_a_layer():
    """Srivastava et al. 2015."""
    layer = question.Highway(1)
    x = np.asarray(RNG.normal(size=(1, 2, 3)), np.float32)
    params = jax.jit(layer.init)(jax.random.key(0), x)
    p = jax.tree.map(np.asarray, params["params"])
    gate = 1 / (1 + np.exp(-(x @ p["gate_0"]["kernel"] + p["gate_0"]["bias"] - 1)))
    value = np.maximum(x @ p["value_0"]["kernel"] + p["value_0"]["bias"], 0)
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x), gate * value + (1 - gate) * x, rtol=1e-4, atol=1e-6)
