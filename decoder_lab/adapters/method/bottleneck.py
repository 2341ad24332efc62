"""Bottleneck adapters: h + up(activation(down(h))) after the parts of every layer.

houlsby: after attention and after the MLP (Houlsby et al. 2019); pfeiffer: after the MLP only (Pfeiffer et al. 2021). Models without
Transformer layers have them after every recurrent layer, or after every convolution.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.adapters import base
from decoder_lab.adapters.places import Place, of_kind
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import product
from decoder_lab.layers.mlp import ACTIVATIONS

NAMES = ("adapter_down_kernel", "adapter_down_bias", "adapter_up_kernel", "adapter_up_bias")


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    return [] if kw["width"] >= 1 else [f"width must be at least 1, got {kw['width']}"]


@dataclasses.dataclass(frozen=True)
class Adapter(base.Adapter):
    """`up` begins at zero, so the adapted model begins as the model.

    Attributes:
      style: where they stand in a Transformer's layer; cross-attention counts as attention.
      width: of the bottleneck.
      activation: between down and up.
    """

    style: Literal["houlsby", "pfeiffer"] = "houlsby"
    width: int = 64
    activation: Literal["gelu", "gelu_exact", "relu", "silu"] = "gelu"

    def added(self, places: dict[str, Place], params: Any, key: jax.Array) -> dict[str, jax.Array]:
        parts = ("attention", "cross_attention", "mlp") if self.style == "houlsby" else ("mlp",)
        chosen = of_kind(places.values(), *parts)
        if not of_kind(places.values(), "mlp"):
            chosen += of_kind(places.values(), "recurrent", "convolution", "gated_convolution")
        if not chosen:
            raise base.nowhere(self, places, "attention, MLPs, recurrent layers and convolutions")
        leaves = {}
        for place in chosen:
            path = place.leaf("adapter_down_kernel")
            shapes = ((place.width, self.width), (self.width,), (self.width, place.width), (place.width,))
            for name, shape in zip(NAMES, shapes, strict=True):
                leaves[place.leaf(name)] = jnp.zeros((*place.lead, *shape), jnp.float32)
            leaves[path] = normal(place.width**-0.5)(base.key_of(key, path), leaves[path].shape, jnp.float32)
        return leaves

    def around(self, module: nn.Module, call: Any, args: tuple, kwargs: dict) -> Any:
        out = call(*args, **kwargs)
        if not module.has_variable("params", NAMES[0]):
            return out
        h, *rest = out if isinstance(out, tuple) else (out,)  # attention returns its cache too
        down, down_bias, up, up_bias = (module.get_variable("params", name) for name in NAMES)
        lead = (None,) * (h.ndim - 1)
        inner = ACTIVATIONS[self.activation](product(h, down, h.dtype) + down_bias.astype(h.dtype)[lead])
        h = h + product(inner, up, h.dtype) + up_bias.astype(h.dtype)[lead]
        return (h, *rest) if isinstance(out, tuple) else h
