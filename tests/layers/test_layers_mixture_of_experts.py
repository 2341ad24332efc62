"""A mixture of experts equals a loop over tokens, one expert equals the plain MLP, and neither padding nor company changes a token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.attention import Context
from decoder_lab.layers.mixture_of_experts import LOSSES, MixtureOfExperts
from decoder_lab.layers.mlp import ACTIVATIONS, Mlp
from decoder_lab.ops import mixture

B, T, D, F, E, K = 2, 6, 4, 5, 3, 2
RNG = np.random.default_rng(0)
X_BTD = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
SEGMENTS_BT = jnp.asarray([[1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 0]], jnp.int32)


def context(segments_BT=None, deterministic=True):
    positions_BT = jnp.arange(T)[None]
    return Context(positions_BT, positions_BT, segments_BT, segments_BT, deterministic=deterministic)


@functools.cache
def made(**kw):
    """Returns (module, random parameters, biases too, compiled (params, x, segments, deterministic) -> (out, losses))."""
    module = MixtureOfExperts(F, **{"num_experts": E, "top_k": K, "stddev": 1.0, **kw})
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), X_BTD, context()))["params"]
    params = jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(x.size).normal(size=x.shape), jnp.float32), shapes)

    @functools.partial(jax.jit, static_argnums=3)
    def apply(params, x_BTD, segments_BT, deterministic=True):
        out, sown = module.apply({"params": params}, x_BTD, context(segments_BT, deterministic), mutable=[LOSSES])
        return out, {name: value[0] for name, value in sown[LOSSES].items()}

    return module, params, apply


def by_token(params, x_BTD, segments_BT, kind, places=None):
    """The definition: for each token in turn its best experts, one after the other; an expert takes `places` tokens of a row."""
    params, activation = jax.tree.map(np.asarray, params), ACTIVATIONS[kind]
    out_BTD, logits_BTE = np.zeros(x_BTD.shape, np.float32), np.asarray(x_BTD) @ params["router"]["kernel"]
    for b in range(x_BTD.shape[0]):
        taken = np.zeros(params["up_kernel"].shape[0], int)
        for t in range(x_BTD.shape[1]):
            if segments_BT is not None and segments_BT[b, t] == 0:
                continue
            best = np.argsort(-logits_BTE[b, t])[:K]
            shares = np.exp(logits_BTE[b, t, best]) / np.exp(logits_BTE[b, t, best]).sum()
            for e, share in zip(best, shares, strict=True):
                taken[e] += 1
                if places is not None and taken[e] > places:
                    continue
                up = x_BTD[b, t] @ params["up_kernel"][e] + params["up_bias"][e]
                hidden = activation(up)
                if "gate_kernel" in params:
                    hidden = activation(x_BTD[b, t] @ params["gate_kernel"][e] + params["gate_bias"][e]) * up
                out_BTD[b, t] += share * (hidden @ params["down_kernel"][e] + params["down_bias"][e])
    return out_BTD


@pytest.mark.parametrize("kind", ["swiglu", "gelu"])
@pytest.mark.parametrize("segments_BT", [None, SEGMENTS_BT])
def test_equals_a_loop_over_tokens(kind, segments_BT, strict_numerics):
    _, params, apply = made(kind=kind)
    np.testing.assert_allclose(apply(params, X_BTD, segments_BT)[0], by_token(params, X_BTD, segments_BT, kind), rtol=1e-4, atol=1e-5)


def test_capacity_leaves_out_those_that_come_late_while_training_and_none_otherwise(strict_numerics):
    _, params, apply = made(capacity=0.7)
    places = -(-0.7 * K * T // E)
    expected = by_token(params, X_BTD, SEGMENTS_BT, "swiglu", places)
    full = by_token(params, X_BTD, SEGMENTS_BT, "swiglu")
    assert np.abs(expected - full).max() > 0.1  # something is left out
    np.testing.assert_allclose(apply(params, X_BTD, SEGMENTS_BT, False)[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apply(params, X_BTD, SEGMENTS_BT, True)[0], full, rtol=1e-4, atol=1e-5)


def test_both_ways_have_the_same_gradients(strict_numerics):
    """With places for all, fixed sizes and sorted groups are the same function."""
    module, params, _ = made(capacity=float(E))

    @functools.partial(jax.jit, static_argnums=2)
    def gradient(params, x_BTD, deterministic):
        def total(params, x_BTD):
            return jnp.sum(jnp.square(module.apply({"params": params}, x_BTD, context(SEGMENTS_BT, deterministic))))

        return jax.grad(total, argnums=(0, 1))(params, x_BTD)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient(params, X_BTD, True), gradient(params, X_BTD, False)
    )


def test_what_stands_behind_the_last_group_means_nothing_in_gradients_either(monkeypatch):
    """KNOWN_BUGS 7: a product in groups that leaves there what was in memory, in the result and in the gradient, changes no real token."""
    module, params, _ = made()
    plain = jax.lax.ragged_dot

    @jax.custom_vjp
    def product(x_SI, kernel_EIO, sizes_E):
        return dirty(plain(x_SI, kernel_EIO, sizes_E), sizes_E)

    def dirty(y_SO, sizes_E):
        return jnp.where((jnp.arange(y_SO.shape[0]) < jnp.sum(sizes_E))[:, None], y_SO, 1e6)

    def backward(saved, g_SO):
        x_SI, kernel_EIO, sizes_E = saved
        x_gradient, kernel_gradient = jax.vjp(lambda x, kernel: plain(x, kernel, sizes_E), x_SI, kernel_EIO)[1](g_SO)
        return dirty(x_gradient, sizes_E), kernel_gradient, None

    product.defvjp(lambda *given: (product(*given), given), backward)

    def gradients():
        run = lambda params, x_BTD: jnp.sum(jnp.sin(module.apply({"params": params}, x_BTD, context(SEGMENTS_BT))))  # noqa: E731
        return jax.jit(jax.grad(run, argnums=(0, 1)))(params, X_BTD)

    expected = gradients()
    monkeypatch.setattr(jax.lax, "ragged_dot", product)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradients(), expected)


def test_one_expert_is_the_plain_mlp(strict_numerics):
    _, params, apply = made(num_experts=1, top_k=1)
    plain = {name: {part: params[f"{name}_{part}"][0] for part in ("kernel", "bias")} for name in ("up", "gate", "down")}
    expected = jax.jit(lambda params: Mlp(F, "swiglu").apply({"params": params}, X_BTD))(plain)
    out, losses = apply(params, X_BTD, None)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(losses["balance"], [B * T, B * T], rtol=1e-6)  # all is used alike


def test_the_losses_are_those_of_the_real_tokens_of_each_row(strict_numerics):
    """Padding and the other rows of a batch change neither the sum nor the weight (KNOWN_BUGS 1 and 2)."""
    module, params, apply = made()
    _, both = apply(params, X_BTD, SEGMENTS_BT)
    _, moved = apply(params, jnp.where(SEGMENTS_BT[..., None] == 0, 9.0, X_BTD), SEGMENTS_BT)
    alone = [apply(params, jnp.tile(X_BTD[b : b + 1], (B, 1, 1)), jnp.tile(SEGMENTS_BT[b : b + 1], (B, 1)))[1] for b in range(B)]
    for name in both:
        np.testing.assert_allclose(both[name], moved[name], rtol=1e-6)
        np.testing.assert_allclose(both[name], (alone[0][name] + alone[1][name]) / B, rtol=1e-5)
    logits_E = np.asarray(X_BTD[1, 2:5] @ params["router"]["kernel"])
    p_TE = np.exp(logits_E) / np.exp(logits_E).sum(-1, keepdims=True)
    used_E = np.eye(E)[np.argsort(-logits_E)[:, :K]].sum((0, 1)) / (3 * K)
    np.testing.assert_allclose(alone[1]["balance"][0] / B, 3 * E * (used_E * p_TE.mean(0)).sum(), rtol=1e-5)
    z = np.square(np.log(np.exp(logits_E).sum(-1))).sum()
    np.testing.assert_allclose(alone[1]["router_z"] / B, [z, 3], rtol=1e-4)
    np.testing.assert_allclose(both["auxiliary"][0], module.balance * both["balance"][0] + module.router_z * both["router_z"][0], rtol=1e-5)


def test_the_balance_is_least_where_all_are_used_alike():
    """Its gradient takes probability from the experts that are used most."""
    logits_BTE = jnp.tile(jnp.asarray([2.0, 1.0, 0.0]), (1, 4, 1))

    def loss(logits_BTE):
        return mixture.balance_loss(logits_BTE, mixture.route(logits_BTE, 1, jnp.ones((1, 4), bool)), jnp.ones((1, 4), bool))[0]

    gradient_E = jax.grad(loss)(logits_BTE)[0, 0]
    assert gradient_E[0] > 0 > max(gradient_E[1:]) and loss(logits_BTE) > 4
