"""DoRA (Liu et al. 2024): the direction of every column of W learns by LoRA, its length by a number of its own.

W' = m V / ||V||, V = W + s A B, the norms over the inputs of each output; m begins as ||W||. As in their section 4.3 no gradient passes
through ||V||.
"""

import dataclasses

import jax
import jax.numpy as jnp

from decoder_lab.adapters import low_rank
from decoder_lab.layers.linear import Linear


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = [] if kw["rank"] >= 1 else [f"rank must be at least 1, got {kw['rank']}"]
    if not 0 <= kw["dropout"] < 1:
        found.append(f"dropout must be at least 0 and below 1, got {kw['dropout']}")
    return found


@dataclasses.dataclass(frozen=True)
class Adapter(low_rank.LowRank):
    """alpha: the product counts alpha / rank times. Dropout is of what enters the product only."""

    alpha: float = 16.0

    PARTS = ("lora_a", "lora_b", "lora_magnitude")
    undecayed = (r"lora_magnitude$",)

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank

    def parts(self, kernel: jax.Array, key: jax.Array) -> low_rank.Parts:
        in_dim, out_dim = kernel.shape[-2:]
        a = low_rank.narrow((3 * in_dim) ** -0.5, key, kernel, (in_dim, self.rank))
        b = jnp.zeros((*kernel.shape[:-2], self.rank, out_dim), jnp.float32)
        return {"lora_a": a, "lora_b": b, "lora_magnitude": _lengths(kernel)}

    def _factor(self, kernel: jax.Array, parts: low_rank.Parts) -> jax.Array:
        """Returns m / ||V||, [..., out]."""
        direction = kernel + self.scale * (parts["lora_a"] @ parts["lora_b"])
        return parts["lora_magnitude"] / jnp.maximum(jax.lax.stop_gradient(_lengths(direction)), 1e-12)

    def changed(self, kernel: jax.Array, parts: low_rank.Parts) -> jax.Array:
        direction = kernel + self.scale * (parts["lora_a"] @ parts["lora_b"])
        return direction * self._factor(kernel, parts)[..., None, :]

    def original(self, merged: jax.Array, kernel: jax.Array, parts: low_rank.Parts) -> jax.Array:
        return merged / self._factor(kernel, parts)[..., None, :] - self.scale * (parts["lora_a"] @ parts["lora_b"])

    def output(self, module: Linear, x: jax.Array, y: jax.Array, parts: low_rank.Parts) -> jax.Array:
        factor = self._factor(module.get_variable("params", "kernel"), parts)[(None,) * (y.ndim - 1)]
        bias = module.get_variable("params", "bias")[(None,) * (y.ndim - 1)] if module.use_bias else 0.0
        delta = low_rank.product(self.scale * low_rank.product(x, parts["lora_a"]), parts["lora_b"])
        return ((y.astype(jnp.float32) - bias + delta) * factor + bias).astype(y.dtype)


def _lengths(kernel: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=-2))
