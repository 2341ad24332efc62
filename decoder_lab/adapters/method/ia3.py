"""IA3 (Liu et al. 2022): keys, values and what is inside the MLP are scaled by learned vectors, which begin at one.

In models without attention what every recurrent layer or convolution puts out is scaled.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.adapters import base
from decoder_lab.adapters.places import Place, of_kind
from decoder_lab.core import tree

OUTPUT, INPUT = "ia3_output", "ia3_input"


@dataclasses.dataclass(frozen=True)
class Adapter(base.Adapter):
    """Vectors beside the kernels whose outputs (or inputs) they scale.

    Attributes:
      outputs: regexes on paths of `Linear` layers whose outputs are scaled, instead of keys and values.
      inputs: ... whose inputs are scaled, instead of the last layer of every MLP.
    """

    undecayed = (rf"{OUTPUT}$", rf"{INPUT}$")

    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def added(self, places: dict[str, Place], params: Any, key: jax.Array) -> dict[str, jax.Array]:
        linear = {place.path: place for place in places.values() if place.kind == "linear"}
        attention = of_kind(places.values(), "attention", "cross_attention")
        outputs = [place.leaf(name) for place in attention for name in ("key", "value")]
        inputs = [place.leaf("down") for place in of_kind(places.values(), "mlp")]
        if self.outputs or self.inputs:
            outputs = base.matching(linear, self.outputs, "adapt.kw.outputs") if self.outputs else []
            inputs = base.matching(linear, self.inputs, "adapt.kw.inputs") if self.inputs else []
        flat = tree.flatten(params)
        leaves = {f"{path}/{OUTPUT}": flat[f"{path}/kernel"].shape[-1:] for path in outputs if path in linear}
        leaves |= {f"{path}/{INPUT}": flat[f"{path}/kernel"].shape[-2:-1] for path in inputs if path in linear}
        found = {path: jnp.ones((*places[path.rpartition("/")[0]].lead, *shape), jnp.float32) for path, shape in leaves.items()}
        if not found:
            layers = of_kind(places.values(), "recurrent", "convolution", "gated_convolution")
            found = {place.leaf(OUTPUT): jnp.ones((*place.lead, place.width), jnp.float32) for place in layers}
        if not found:
            raise base.nowhere(self, places, "attention, MLPs, recurrent layers and convolutions")
        return found

    def around(self, module: nn.Module, call: Any, args: tuple, kwargs: dict) -> Any:
        if module.has_variable("params", INPUT):
            args = (args[0] * _beside(module.get_variable("params", INPUT), args[0]), *args[1:])
        y = call(*args, **kwargs)
        return y * _beside(module.get_variable("params", OUTPUT), y) if module.has_variable("params", OUTPUT) else y

    def _sites(self, params: Any) -> Iterator[tuple[str, str, jax.Array]]:
        for path, leaf in tree.flatten(params).items():
            module, _, name = path.rpartition("/")
            if name in (OUTPUT, INPUT):
                yield module, name, leaf

    def _scaled(self, params: Any, vectors: Any, power: int) -> dict:
        flat, new = tree.flatten(params), {}
        for module, name, leaf in self._sites(vectors):
            kernel, bias = f"{module}/kernel", f"{module}/bias"
            if kernel not in flat:  # the output of a recurrent layer or a convolution
                return super().merge(params)
            factor = leaf**power
            new[kernel] = new.get(kernel, flat[kernel]) * (factor[..., None, :] if name == OUTPUT else factor[..., :, None])
            if name == OUTPUT and bias in flat:
                new[bias] = flat[bias] * factor
        return base.insert(params, new)

    def merge(self, params: Any) -> Any:
        return base.remove(self._scaled(params, params, 1), {f"{module}/{name}" for module, name, _ in self._sites(params)})

    def unmerge(self, merged: Any, params: Any) -> Any:
        return base.insert(self._scaled(merged, params, -1), {f"{module}/{name}": leaf for module, name, leaf in self._sites(params)})

    def folded(self, params: Any) -> Any:
        mergeable = all(f"{module}/kernel" in tree.flatten(params) for module, _, _ in self._sites(params))
        return self.merge(params) if mergeable else params


def _beside(vector: jax.Array, x: jax.Array) -> jax.Array:
    return vector.astype(x.dtype)[(None,) * (x.ndim - 1)]
