"""Everything is trained; lower layers more slowly, or later, if asked for (Howard & Ruder 2018).

The level of a parameter counts from the top: 0 the heads and the last norm, 1 the topmost layer, ..., the last one embeddings. An encoder
and a decoder each have levels of their own.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from decoder_lab.adapters import base
from decoder_lab.core import tree
from decoder_lab.core.lookup import Duration

LAYER = re.compile(r"(?:^|/)(?:layers?|forward|backward)_(\d+)(?:/|$)")  # unrolled Transformer, convolutional and recurrent layers
SCANNED = re.compile(r"(?:^|/)layers/block/")  # a leading axis of all layers
EMBEDDING = re.compile(r"embedding(_norm)?(/|$)|position_bias$")


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    return [] if 0 < kw["layer_decay"] <= 1 else [f"layer_decay must be above 0 and at most 1, got {kw['layer_decay']}"]


@dataclasses.dataclass(frozen=True)
class Adapter(base.Adapter):
    """Adds nothing.

    Attributes:
      layer_decay: layer-wise decay of the learning rate: a parameter of level k learns at layer_decay ** k of it. 1: all alike.
      unfreeze_every: gradual unfreezing: level k begins to learn after k times as long. "0": all from the beginning. The optimiser's
        averages of gradients are kept from the first step on, so a level begins with warm ones.
    """

    layer_decay: float = 1.0
    unfreeze_every: Duration = "0"

    def trained(self, params: Any) -> set[str]:
        super().trained(params)
        return set(tree.flatten(params))

    def merge(self, params: Any) -> Any:
        return params

    def unmerge(self, merged: Any, params: Any) -> Any:
        return merged

    def scaling(self, params: Any, total_steps: int, steps: Callable[[str], int]) -> optax.GradientTransformation | None:
        every = steps(self.unfreeze_every)
        if self.layer_decay == 1.0 and not every:
            return None
        found = levels(params)

        def init(params: Any) -> optax.ScaleByScheduleState:
            return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

        def update(updates: Any, state: optax.ScaleByScheduleState, params: Any = None) -> tuple[Any, optax.ScaleByScheduleState]:
            def scaled(update, level):
                learns = (state.count >= jnp.asarray(level) * every).astype(jnp.float32)
                return update * (jnp.asarray(self.layer_decay, jnp.float32) ** jnp.asarray(level, jnp.float32) * learns)

            return jax.tree.map(scaled, updates, found), optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

        return optax.GradientTransformation(init, update)


def levels(params: Any) -> Any:
    """Returns a tree of the levels: an int for each parameter, for scanned layers an array [L, 1, ...] of ints."""
    flat = tree.flatten(params)
    depth: dict[str, int] = {}  # of each stack of layers, named by what stands before the layer's number
    for path, leaf in flat.items():
        if match := LAYER.search(path):
            depth[_stack(path, match)] = max(depth.get(_stack(path, match), 0), int(match[1]) + 1)
        elif match := SCANNED.search(path):
            depth[_stack(path, match)] = leaf.shape[0]
    found = {}
    for path, leaf in flat.items():
        if match := LAYER.search(path):
            found[path] = depth[_stack(path, match)] - int(match[1])
        elif match := SCANNED.search(path):
            found[path] = (leaf.shape[0] - jnp.arange(leaf.shape[0])).reshape(-1, *[1] * (leaf.ndim - 1))
        elif EMBEDDING.search(path):
            side = path.split("/")[0]
            found[path] = 1 + max(
                (size for stack, size in depth.items() if stack.split("/")[0] == side), default=max(depth.values(), default=0)
            )
        else:
            found[path] = 0
    return tree.nest(found)


def _stack(path: str, match: re.Match) -> str:
    return path[: match.start()] or "/"
