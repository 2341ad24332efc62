"""LoRA (Hu et al. 2021): W + s A B with A [in, r], B [r, out], s = alpha / r, or alpha / sqrt(r) rank-stabilised (Kalajdzievski 2023).

With `quantize` the frozen kernels are kept in 8 or 4 bits and made floating point where they are used (QLoRA, Dettmers et al. 2023), by
qwix (`pip install decoder_lab[quant]`).
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.adapters import low_rank, quantized
from decoder_lab.adapters.places import Place
from decoder_lab.layers.linear import Linear


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = [] if kw["rank"] >= 1 else [f"rank must be at least 1, got {kw['rank']}"]
    if not 0 <= kw["dropout"] < 1:
        found.append(f"dropout must be at least 0 and below 1, got {kw['dropout']}")
    if kw["alpha"] <= 0:
        found.append(f"alpha must be above 0, got {kw['alpha']}")
    return found


@dataclasses.dataclass(frozen=True)
class Adapter(low_rank.LowRank):
    """A begins normally distributed, B at zero: the adapted model begins as the model.

    Attributes:
      alpha: its product counts alpha / rank times.
      rank_stabilised: ... or alpha / sqrt(rank) times.
      quantize: how the frozen kernels of `Linear` layers are kept in memory: as they are, in 8-bit integers with a scale for each output,
        or in 4-bit NormalFloat with a scale for each block of 64 inputs (or as many as divide their number).
    """

    alpha: float = 16.0
    rank_stabilised: bool = False
    quantize: Literal["none", "int8", "nf4"] = "none"

    PARTS = ("lora_a", "lora_b")

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def parts(self, kernel: jax.Array, key: jax.Array) -> low_rank.Parts:
        in_dim, out_dim = kernel.shape[-2:]
        a = low_rank.narrow((3 * in_dim) ** -0.5, key, kernel, (in_dim, self.rank))  # the variance of PEFT's
        return {"lora_a": a, "lora_b": jnp.zeros((*kernel.shape[:-2], self.rank, out_dim), jnp.float32)}

    def changed(self, kernel: jax.Array, parts: low_rank.Parts) -> jax.Array:
        return kernel + self.scale * (parts["lora_a"] @ parts["lora_b"])

    def output(self, module: Linear, x: jax.Array, y: jax.Array, parts: low_rank.Parts) -> jax.Array:
        return y + low_rank.product(self.scale * low_rank.product(x, parts["lora_a"]), parts["lora_b"]).astype(y.dtype)

    def stored(self, frozen: Any, places: dict[str, Place]) -> Any:
        return frozen if self.quantize == "none" else quantized.store(frozen, places, self.quantize)

    def around(self, module: nn.Module, call: Any, args: tuple, kwargs: dict) -> Any:
        return super().around(module, quantized.instead(module, call), args, kwargs)

    def merge(self, params: Any) -> Any:
        return super().merge(quantized.restored(params))

    def folded(self, params: Any) -> Any:
        return params if self.quantize != "none" else self.merge(params)
