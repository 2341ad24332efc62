"""From an encoder's final states to the states that a recurrent decoder begins with."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.memory import Memory
from decoder_lab.layers.recurrent import has_several
from decoder_lab.layers.weights import Weights
from decoder_lab.ops import masks
from decoder_lab.ops.recurrent import NUM_STATES
from decoder_lab.ops.recurrent import Kind as Cell

Kind = Literal["linear", "backward", "copy", "zero"]


def summary(memory: Memory) -> tuple[jax.Array, jax.Array]:
    """Returns (one vector of each row [B, D], the same of the document of each entry [B, S, D]): what the encoder read in the end.

    It is the last layer's final h of a recurrent encoder, the mean of the values of any other. `memory.values_BSD` is finite at padding.
    """
    if memory.states:
        last_BD = _parts(memory.states[-1])[-1]
        if memory.segment_states:
            return last_BD, _parts(memory.segment_states[-1])[-1]
        return last_BD, jnp.broadcast_to(last_BD[:, None], (*memory.segments_BS.shape, last_BD.shape[-1]))
    real_BS = memory.segments_BS != 0
    values_BSD = memory.values_BSD.astype(jnp.float32)
    same_BSS = (memory.segments_BS[:, :, None] == memory.segments_BS[:, None, :]) & real_BS[:, None, :]
    zeros_BSS = jnp.zeros(same_BSS.shape, jnp.float32)
    means_BSD = jnp.einsum("BTS,BSD->BTD", masks.softmax(zeros_BSS, same_BSS), values_BSD)
    weights_BS = masks.softmax(zeros_BSS[:, 0], real_BS)
    return jnp.einsum("BS,BSD->BD", weights_BS, values_BSD), means_BSD


class Bridge(nn.Module):
    """Memory -> initial states of `num_layers` layers.

    linear: h = tanh(W h_encoder + b) and c = W c_encoder + b. backward: the same of the backward direction's states alone (Bahdanau et al.
    2014, section A.2.2). copy: as they are (Sutskever et al. 2014), which takes the encoder's width; c is 0 where the encoder has none.
    zero: nothing passes. Layers meet from the top down; a decoder with more of them than the encoder repeats the encoder's last. An
    encoder without states gives the mean of its values as h.
    """

    kind: Kind
    cell: Cell
    width: int
    num_layers: int

    def setup(self):
        if self.kind in ("linear", "backward"):
            parts = "ch"[-NUM_STATES[self.cell] :]
            self.maps = [{part: Weights(self.width) for part in parts} for _ in range(self.num_layers)]

    def __call__(self, memory: Memory) -> tuple | None:
        """Returns for each layer its state, [B, S, W] float32: what a text begins with that reads the document of each memory entry."""
        if self.kind == "zero":
            return None
        row_BD, documents_BSD = summary(memory)
        finals = [_parts(s) for s in memory.states] or [(row_BD,)]
        of_segments = [_parts(s) for s in memory.segment_states]
        if not memory.states:
            of_segments = [(documents_BSD,)]
        weights = [self._weights(i, _source(finals, i, self.num_layers)) for i in range(self.num_layers)]

        def states(found):
            return tuple(self._begin(weights[i], _source(found, i, self.num_layers)) for i in range(self.num_layers))

        def shared():
            length = memory.segments_BS.shape[1]
            found = states([tuple(s[:, None] for s in parts) for parts in finals])
            return jax.tree.map(lambda s: jnp.broadcast_to(s, (s.shape[0], length, s.shape[2])), found)

        return jax.lax.cond(has_several(memory.segments_BS), lambda: states(of_segments), shared) if of_segments else shared()

    def _weights(self, layer: int, source: tuple) -> dict:
        """Returns the parameters of a layer's maps as arrays, since modules cannot be called inside a conditional."""
        if self.kind == "copy":
            return {}
        dims = {"c": source[0].shape[-1], "h": source[-1].shape[-1]}
        return {part: weights(dims[part] // (2 if self.kind == "backward" else 1)) for part, weights in self.maps[layer].items()}

    def _begin(self, weights: dict, source: tuple) -> tuple[jax.Array, ...]:
        if self.kind == "copy":
            h = source[-1]
            if h.shape[-1] != self.width:
                raise ValueError(
                    f'bridge="copy" needs states as wide as the decoder, got {h.shape[-1]} and {self.width} (two directions count double): '
                    'change a width, or use bridge="linear"'
                )
            return (h,) if self.cell == "gru" else (source[0] if len(source) == 2 else jnp.zeros_like(h), h)
        if self.kind == "backward":
            source = tuple(part[..., part.shape[-1] // 2 :] for part in source)
        inputs = {"c": source[0], "h": source[-1]}
        mapped = {name: jnp.dot(inputs[name], w["kernel"]) + w["bias"][None, None] for name, w in weights.items()}
        mapped["h"] = jnp.tanh(mapped["h"])
        return tuple(mapped[name] for name in weights)


def _parts(state) -> tuple[jax.Array, ...]:
    return state if isinstance(state, tuple) else (state,)


def _source(found: list, layer: int, num_layers: int):
    """Returns the encoder's layer that this layer of the decoder begins with."""
    return found[min(layer + max(len(found) - num_layers, 0), len(found) - 1)]
