"""Where an adapter can act in a model: the modules that one call of it runs through, found by watching that call without computing it."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import flax.linen as nn
import jax

from decoder_lab.core import tree
from decoder_lab.layers.attention import Attention
from decoder_lab.layers.convolution import Convolution, GatedConvolution
from decoder_lab.layers.cross_attention import CrossAttention
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.mixture_of_experts import MixtureOfExperts
from decoder_lab.layers.mlp import Mlp
from decoder_lab.layers.recurrent import Output, Starts

Kind = Literal[
    "linear",
    "attention",
    "cross_attention",
    "mlp",
    "recurrent",
    "states",
    "gated_convolution",
    "convolution",
    "embedding",
    "encoder",
    "decoder",
]
CLASSES: dict[type, Kind] = {
    Linear: "linear",
    Attention: "attention",
    CrossAttention: "cross_attention",
    Mlp: "mlp",
    MixtureOfExperts: "mlp",
    Output: "recurrent",
    Starts: "states",
    GatedConvolution: "gated_convolution",
    Convolution: "convolution",
    Embedding: "embedding",
}
PLUGINS: dict[str, Kind] = {"Encoder": "encoder", "Decoder": "decoder"}  # classes by their name, which their kind of plug-in fixes


@dataclasses.dataclass(frozen=True)
class Place:
    """A module of a model.

    Attributes:
      path: of its parameters, "" for the model itself.
      kind: what it is.
      width: of what it returns, the last axis.
      lead: leading axes that its parameters have and it does not see: the layers of a scanned stack.
      fields: sizes that its class has as fields, such as num_kv_heads.
    """

    path: str
    kind: Kind
    width: int
    lead: tuple[int, ...]
    fields: dict[str, Any]

    def leaf(self, name: str) -> str:
        """Returns the path of a parameter directly in it."""
        return f"{self.path}/{name}" if self.path else name


def kind_of(module: nn.Module) -> Kind | None:
    """Returns what kind of place a module is; None for one where nothing acts."""
    for found in type(module).__mro__:
        if found in CLASSES or found.__name__ in PLUGINS:
            return CLASSES.get(found) or PLUGINS[found.__name__]
    return None


def survey(model: nn.Module, method: Callable, batch: Any, shapes: Any) -> dict[str, Place]:
    """Returns {path: place} of what `model.apply({"params": ...}, batch, True, method=method)` runs through; `shapes`: its parameters'."""
    full, found = tree.flatten(shapes), {}

    def note(next_fun, args, kwargs, context):
        out, module = next_fun(*args, **kwargs), context.module
        if context.method_name == "__call__" and (kind := kind_of(module)):
            path = "/".join(module.path)
            inside = tree.flatten(module.variables.get("params", {}))
            lead: tuple[int, ...] = ()
            for name, leaf in inside.items():
                whole = full[f"{path}/{name}" if path else name]
                lead = whole.shape[: whole.ndim - leaf.ndim]
                break
            sizes = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
            found[path] = Place(
                path, kind, _width(out), lead, {name: size for name, size in sizes.items() if isinstance(size, int | str | tuple)}
            )
        return out

    with nn.intercept_methods(note):
        jax.eval_shape(lambda params: model.apply({"params": params}, batch, True, method=method), shapes)
    return found


def of_kind(places: Iterable[Place], *kinds: Kind) -> list[Place]:
    """Returns the places of these kinds, in order; a convolution inside a gated one is not a place of its own."""
    chosen = [place for place in places if place.kind in kinds]
    gated = tuple(f"{place.path}/" for place in chosen if place.kind == "gated_convolution")
    return [place for place in chosen if place.kind != "convolution" or not place.path.startswith(gated)]


def _width(out: Any) -> int:
    first = jax.tree.leaves(out)[:1]
    return first[0].shape[-1] if first and first[0].ndim else 0
