"""A mixture of experts in the place of an MLP: a router sends every token to a few of many MLPs (Mixtral, Jiang et al. 2024)."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.attention import Context
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.mlp import ACTIVATIONS, GATED, Kind
from decoder_lab.ops import mixture

LOSSES = "losses"  # collection into which the losses of the router are sown, each (sum, weight), where the caller made it mutable


def mixed(
    x_BTD: jax.Array, routes: mixture.Routes, place_BTK: jax.Array, weights: mixture.Weights, num_places: int, activation: Callable
) -> jax.Array:
    """Returns the mixture; an expert has `num_places` places in a row, of which place_BTK is each token's, or 0: as many as it takes."""
    if not num_places:
        return mixture.sorted_mixture(x_BTD, routes, weights, activation)
    return mixture.placed_mixture(x_BTD, routes, place_BTK, num_places, weights, activation)


class MixtureOfExperts(nn.Module):
    """`num_experts` MLPs, each as `layers.mlp.Mlp`; a token gets the sum of its `top_k` best ones, by their probabilities.

    capacity: None computes every token by all its experts. A number c gives each expert c * top_k * T / num_experts places in a row of T
    while training, which makes products of fixed sizes, and leaves out what finds its expert full; otherwise nothing is ever left out, so
    that a text read token by token gives what it gives at once.
    Sown: "balance" and "router_z" [2] (sum, weight), and "auxiliary", what is to be added to the loss: both by their coefficients.
    """

    mlp_dim: int
    num_experts: int
    top_k: int
    kind: Kind = "swiglu"
    capacity: float | None = None
    balance: float = 0.01
    router_z: float = 0.001
    use_bias: bool = True
    stddev: float = 0.02
    out_stddev: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        # routes are decided in float32: rounded logits would send near ties elsewhere
        logits_BTE = Linear(self.num_experts, False, self.stddev, jnp.float32, name="router")(x_BTD)
        weights = self._weights(x_BTD.shape[-1])
        if self.is_initializing():
            return x_BTD
        segments_BT = context.q_segments_BT
        real_BT = jnp.ones(x_BTD.shape[:2], bool) if segments_BT is None else segments_BT != 0
        routes = mixture.route(logits_BTE, self.top_k, real_BT)
        if self.is_mutable_collection(LOSSES):
            self._sow_losses(logits_BTE, routes, real_BT)
        num_places = 0 if self.capacity is None or context.deterministic else self._num_places(x_BTD.shape[1])
        place_BTK = jnp.zeros_like(routes.experts_BTK)
        if num_places:
            routes, place_BTK = mixture.limited(routes, self.num_experts, num_places)
        return self.mix(x_BTD.astype(self.dtype), routes, place_BTK, weights, num_places)

    def mix(self, x_BTD: jax.Array, routes: mixture.Routes, place_BTK: jax.Array, weights: mixture.Weights, num_places: int) -> jax.Array:
        """As `mixed`, by this module's activation."""
        return mixed(x_BTD, routes, place_BTK, weights, num_places, ACTIVATIONS[self.kind])

    def _num_places(self, length: int) -> int:
        return min(length, math.ceil(self.capacity * self.top_k * length / self.num_experts))

    def _weights(self, width: int) -> dict[str, jax.Array]:
        """Returns the experts' kernels [E, in, out] and biases [E, out]."""
        names = {"up": (width, self.mlp_dim), "gate": (width, self.mlp_dim), "down": (self.mlp_dim, width)}
        if self.kind not in GATED:
            del names["gate"]
        found = {}
        for name, (inputs, outputs) in names.items():
            stddev = self.out_stddev if name == "down" else self.stddev
            found[f"{name}_kernel"] = self.param(f"{name}_kernel", normal(stddev), (self.num_experts, inputs, outputs), jnp.float32)
            if self.use_bias:
                found[f"{name}_bias"] = self.param(f"{name}_bias", nn.initializers.zeros, (self.num_experts, outputs), jnp.float32)
        return found

    def _sow_losses(self, logits_BTE: jax.Array, routes: mixture.Routes, real_BT: jax.Array) -> None:
        balance = jnp.stack(mixture.balance_loss(logits_BTE, routes, real_BT))
        router_z = jnp.stack(mixture.z_loss(logits_BTE, real_BT))
        auxiliary = jnp.stack([self.balance * balance[0] + self.router_z * router_z[0], balance[1]])
        for name, value in (("balance", balance), ("router_z", router_z), ("auxiliary", auxiliary)):
            self.sow(LOSSES, name, value)
