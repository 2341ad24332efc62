"""A mixture of experts (Shazeer et al. 2017): which experts a token goes to, two ways of computing them, and two losses of the router.

Letters: E experts, K experts of a token, P places of an expert in a row, M tokens. Expert E, one more than there are, stands for none.

Everything is of one row alone, so that no result depends on what else is in the batch, on padding, or on how a batch is cut; and within a
row of what came before, so that a causal model stays causal.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Weights = Mapping[str, jax.Array]  # up_kernel, gate_kernel [E, D, F], down_kernel [E, F, D]; up_bias, gate_bias [E, F], down_bias [E, D]


class Routes(NamedTuple):
    """Where tokens go. experts_BTK: E is none. shares_BTK: float32, what each expert's result is multiplied by."""

    experts_BTK: jax.Array
    shares_BTK: jax.Array


def route(logits_BTE: jax.Array, top_k: int, real_BT: jax.Array) -> Routes:
    """Returns the `top_k` best experts of every real token, with their probabilities among each other (Jiang et al. 2024, section 2.1)."""
    best_BTK, experts_BTK = jax.lax.top_k(logits_BTE.astype(jnp.float32), top_k)
    none = logits_BTE.shape[-1]
    return Routes(jnp.where(real_BT[..., None], experts_BTK, none).astype(jnp.int32), jax.nn.softmax(best_BTK, axis=-1))


def limited(routes: Routes, num_experts: int, num_places: int) -> tuple[Routes, jax.Array]:
    """Returns (routes without those that find their expert full, place_BTK of those that remain): an expert has so many places in a row.

    First come, first served: by time, and for one token by the order of its experts (Fedus et al. 2021, section 2.2).
    """
    batch, length, top_k = routes.experts_BTK.shape
    wanted_BSE = jax.nn.one_hot(routes.experts_BTK.reshape(batch, length * top_k), num_experts, dtype=jnp.int32)
    place_BSE = jnp.cumsum(wanted_BSE, axis=1) - wanted_BSE
    place_BTK = jnp.sum(place_BSE * wanted_BSE, axis=-1).reshape(batch, length, top_k)
    experts_BTK = jnp.where(place_BTK < num_places, routes.experts_BTK, num_experts)
    return Routes(experts_BTK, routes.shares_BTK), place_BTK


def sorted_mixture(x_BTD: jax.Array, routes: Routes, weights: Weights, activation: Callable) -> jax.Array:
    """Returns the mixture of x_BTD: tokens are sorted by expert and multiplied in groups of any size, so that none is left out."""
    batch, length, width = x_BTD.shape
    num_experts, top_k = weights["up_kernel"].shape[0], routes.experts_BTK.shape[-1]
    expert_S = routes.experts_BTK.reshape(-1)
    order_S = jnp.argsort(expert_S)  # stable
    sizes_E = jnp.sum(jax.nn.one_hot(expert_S, num_experts, dtype=jnp.int32), axis=0)
    sorted_S = jnp.minimum(expert_S[order_S], num_experts - 1)

    chosen_S = expert_S[order_S] < num_experts

    def multiply(x_SI: jax.Array, kernel_EIO: jax.Array) -> jax.Array:
        # what stands behind the last group means nothing, in the gradient with respect to x too: zeros here are zeros there
        x_SI = jnp.where(chosen_S[:, None], x_SI, jnp.zeros((), x_SI.dtype))
        return jax.lax.ragged_dot(x_SI, kernel_EIO.astype(x_SI.dtype), sizes_E)

    def add(y_SO: jax.Array, bias_EO: jax.Array) -> jax.Array:
        return y_SO + bias_EO.astype(y_SO.dtype)[sorted_S]

    y_SD = _outputs(x_BTD.reshape(-1, width)[order_S // top_k], weights, activation, multiply, add)
    y_BTKD = y_SD[jnp.argsort(order_S)].reshape(batch, length, top_k, width)
    return _shared_out(y_BTKD, routes, num_experts)


def placed_mixture(
    x_BTD: jax.Array, routes: Routes, place_BTK: jax.Array, num_places: int, weights: Weights, activation: Callable
) -> jax.Array:
    """Returns the mixture where every expert has `num_places` places in a row: plain products of fixed sizes, empty places included."""
    batch, length, width = x_BTD.shape
    num_experts, top_k = weights["up_kernel"].shape[0], routes.experts_BTK.shape[-1]
    row_BTK = jnp.broadcast_to(jnp.arange(batch)[:, None, None], routes.experts_BTK.shape)
    at = routes.experts_BTK, row_BTK, place_BTK  # no expert, or no place: out of range, dropped on writing
    x_BTKD = jnp.broadcast_to(x_BTD[:, :, None], (batch, length, top_k, width))
    x_EBPD = jnp.zeros((num_experts, batch, num_places, width), x_BTD.dtype).at[at].set(x_BTKD, mode="drop")

    def multiply(x_EBPI: jax.Array, kernel_EIO: jax.Array) -> jax.Array:
        return jnp.einsum("EBPI,EIO->EBPO", x_EBPI, kernel_EIO.astype(x_EBPI.dtype))

    def add(y_EBPO: jax.Array, bias_EO: jax.Array) -> jax.Array:
        return y_EBPO + bias_EO.astype(y_EBPO.dtype)[:, None, None]

    y_EBPD = _outputs(x_EBPD, weights, activation, multiply, add)
    return _shared_out(y_EBPD.at[at].get(mode="fill", fill_value=0), routes, num_experts)


def _outputs(x: jax.Array, weights: Weights, activation: Callable, multiply: Callable, add: Callable) -> jax.Array:
    """Returns what each expert makes of its tokens: an MLP, gated where there is a gate_kernel (`layers/mlp.py`)."""

    def linear(name: str, x: jax.Array) -> jax.Array:
        y = multiply(x, weights[f"{name}_kernel"])
        return add(y, weights[f"{name}_bias"]) if f"{name}_bias" in weights else y

    up = linear("up", x)
    return linear("down", activation(linear("gate", x)) * up if "gate_kernel" in weights else activation(up))


def _shared_out(y_BTKD: jax.Array, routes: Routes, num_experts: int) -> jax.Array:
    # where, not only a product: what stands behind the last group of a ragged product means nothing
    y_BTKD = jnp.where((routes.experts_BTK < num_experts)[..., None], y_BTKD, jnp.zeros((), y_BTKD.dtype))
    return jnp.einsum("BTKD,BTK->BTD", y_BTKD, routes.shares_BTK.astype(y_BTKD.dtype))


def balance_loss(logits_BTE: jax.Array, routes: Routes, real_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (sum, weight) over real tokens of E sum_e f_e p_e of their row: f the share of its routes that go to an expert, p its mean
    probability (Fedus et al. 2021, eq. 4, over each row as in DeepSeek-V3). 1 where all are used alike."""
    num_experts, top_k = logits_BTE.shape[-1], routes.experts_BTK.shape[-1]
    real_BT1 = real_BT.astype(jnp.float32)[..., None]
    count_B1 = jnp.sum(real_BT1, axis=1)
    used_BE = jnp.sum(jax.nn.one_hot(routes.experts_BTK, num_experts, dtype=jnp.float32), axis=(1, 2)) / jnp.maximum(count_B1 * top_k, 1.0)
    likely_BE = jnp.sum(jax.nn.softmax(logits_BTE.astype(jnp.float32), axis=-1) * real_BT1, axis=1) / jnp.maximum(count_B1, 1.0)
    loss_B = num_experts * jnp.sum(jax.lax.stop_gradient(used_BE) * likely_BE, axis=-1)
    return jnp.sum(loss_B * count_B1[:, 0]), jnp.sum(count_B1)


def z_loss(logits_BTE: jax.Array, real_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (sum, weight) over real tokens of (log Z)^2, which keeps the router's logits small (Zoph et al. 2022, eq. 5)."""
    log_z_BT = jax.nn.logsumexp(logits_BTE.astype(jnp.float32), axis=-1)
    return jnp.sum(jnp.where(real_BT, jnp.square(log_z_BT), 0.0)), jnp.sum(real_BT.astype(jnp.float32))
