"""Prefix tuning (Li & Liang 2021) as P-tuning v2 has it (Liu et al. 2022): learned keys and values in the self-attention of every layer.

Every query of every text reads them beside the text's own keys; they have no position and take no room in a cache. In recurrent models
the state that a text begins with is learned, added to the one that an encoder hands over.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.adapters import base
from decoder_lab.adapters.places import Place, of_kind
from decoder_lab.layers.attention import PREFIX
from decoder_lab.layers.initialization import normal
from decoder_lab.ops.recurrent import NUM_STATES

STATES = "prefix_states"


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    return [] if kw["num_tokens"] >= 1 else [f"num_tokens must be at least 1, got {kw['num_tokens']}"]


@dataclasses.dataclass(frozen=True)
class Adapter(base.Adapter):
    """Keys and values are parameters themselves, drawn normally; without the network that Li & Liang train them through.

    Attributes:
      num_tokens: learned keys of every layer and key head; recurrent layers have one state, whatever it is.
      stddev: of their initial values. Learned states begin at zero.
    """

    num_tokens: int = 20
    stddev: float = 0.02

    def added(self, places: dict[str, Place], params: Any, key: jax.Array) -> dict[str, jax.Array]:
        leaves = {}
        for place in of_kind(places.values(), "attention"):
            shape = (*place.lead, self.num_tokens, place.fields["num_kv_heads"], place.fields["head_dim"])
            for name in PREFIX:
                leaves[place.leaf(name)] = normal(self.stddev)(base.key_of(key, place.leaf(name)), shape, jnp.float32)
        for place in of_kind(places.values(), "states"):
            leaves[place.leaf(STATES)] = jnp.zeros((NUM_STATES[place.fields["kind"]], place.fields["width"]), jnp.float32)
        if not leaves:
            raise base.nowhere(self, places, "self-attention (Transformers) and recurrent layers")
        return leaves

    def around(self, module: nn.Module, call: Any, args: tuple, kwargs: dict) -> Any:
        if not module.has_variable("params", STATES):
            return call(*args, **kwargs)
        return tuple(module.get_variable("params", STATES))
