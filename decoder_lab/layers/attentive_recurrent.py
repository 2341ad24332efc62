"""The recurrent part of a decoder: stacked cells that begin with what an encoder read and attend to it.

Where the attention's result feeds no cell (Luong et al. 2015 without input feeding, or no attention), the layers run one after the other
over all time and attention is one product over all queries. Where it does (Bahdanau et al. 2014, input feeding), one scan does it all step
by step. Both give the same numbers for the same parameters as one token at a time with a cache.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from decoder_lab.layers import bridge
from decoder_lab.layers.alignment import Alignment, attend_fn
from decoder_lab.layers.memory import Memory
from decoder_lab.layers.recurrent import (
    Cell,
    Output,
    Starts,
    Steps,
    TimeDropout,
    begin,
    begun,
    hold,
    input_gates,
    marks,
    recurrent_addend,
    run,
    steps_of,
    zero_state,
)
from decoder_lab.layers.weights import Weights
from decoder_lab.ops import alignment, masks
from decoder_lab.ops import recurrent as ops


@struct.dataclass
class Reading:
    """What the layers hand to the readout, in the compute dtype.

    Attributes:
      state_BTW: h of the last layer.
      context_BTC: what attention read, or the encoder's summary; None where there is none.
      attentional_BTR: tanh(W [context; h]) where asked for and there is a context.
    """

    state_BTW: jax.Array
    context_BTC: jax.Array | None
    attentional_BTR: jax.Array | None


def empty_cache(cell: ops.Kind, batch_size: int, width: int, num_layers: int, feed_dim: int | None) -> dict:
    """Returns {"states": one of each layer, "feed" [B, R] with input feeding, "segment" int32 [B]: the document being read (0: none)}."""
    states = tuple(zero_state(cell, batch_size, width) for _ in range(num_layers))
    feed = {} if feed_dim is None else {"feed": jnp.zeros((batch_size, feed_dim), jnp.float32)}
    return {"states": states, **feed, "segment": jnp.zeros((batch_size,), jnp.int32)}


class AttentiveRecurrent(nn.Module):
    """See the fields of `decoders.recurrent.Decoder`; `attentional_dim` None: no attentional hidden state."""

    cell: ops.Kind
    width: int
    num_layers: int
    kind: Literal["none", "additive", "dot", "general", "concat", "scaled_dot"]
    num_units: int
    num_heads: int
    window: int | None
    predict_centre: bool
    context_input: bool
    input_feeding: bool
    attentional_dim: int | None
    bridge: bridge.Kind
    dropout: float
    variational: bool
    forget_bias: float
    dtype: jnp.dtype

    def setup(self):
        self.layers = [Cell(self.cell, self.width, self.forget_bias) for _ in range(self.num_layers)]
        self.starts = [Starts(self.cell, self.width) for _ in range(self.num_layers)]
        self.outputs = [Output() for _ in range(self.num_layers)]
        self.start = bridge.Bridge(self.bridge, self.cell, self.width, self.num_layers)
        self.between = [TimeDropout(self.dropout, self.variational) for _ in range(self.num_layers - 1)]
        if self.kind != "none":
            units = self.width if self.kind == "general" else self.num_units
            self.attention = Alignment(self.kind, units, self.window, self.predict_centre, self.dtype, self.num_heads)
        if self.attentional_dim is not None:
            self.attentional = Weights(self.attentional_dim, use_bias=False)

    def prepare(self, memory: Memory) -> Memory:
        """Returns the memory with projected keys (or the summary) and the states to begin with; states are dropped, padding is zero."""
        memory = memory.without_padding()
        values_BSD = memory.values_BSD.astype(self.dtype)
        memory = memory.replace(values_BSD=values_BSD)
        prepared = {"start": self.start(memory)}
        if self.kind != "none":
            prepared["keys"] = self.attention.prepare(values_BSD)
            memory = memory.replace(values_BSD=self.attention.prepare_values(values_BSD))
            if self.window is not None:
                prepared["positions"] = alignment.positions(memory.segments_BS)
        elif self.context_input:
            prepared["summary"] = bridge.summary(memory)[1].astype(self.dtype)
        return memory.replace(prepared=prepared, states=(), segment_states=())

    def _empty_cache(self, batch_size: int) -> dict:
        return empty_cache(self.cell, batch_size, self.width, self.num_layers, self.attentional_dim if self.input_feeding else None)

    def __call__(
        self, x_BTE: jax.Array, segments_BT, positions_BT: jax.Array, cache: dict | None, memory: Memory | None, deterministic: bool
    ) -> tuple[Reading, dict | None]:
        """Returns (what was read, cache); `memory` is prepared; a cache needs segments."""
        x_TBE, (batch, length) = x_BTE.transpose(1, 0, 2), x_BTE.shape[:2]
        steps = None if segments_BT is None else steps_of(segments_BT, None if cache is None else cache["segment"])
        document_BT = jnp.ones((batch, 1), jnp.int32) if segments_BT is None else segments_BT
        if memory is not None:
            document_BT, _ = masks.readable(document_BT, memory.segments_BS)
        start = _starts(document_BT, memory)
        if any(learned := [layer() for layer in self.starts]):
            start = tuple(begun(w, None if start is None else start[i], length, batch) for i, w in enumerate(learned))
        read = self._empty_cache(batch) if cache is None else cache
        states, feed = read["states"], read.get("feed")
        if steps is None and start is not None:
            states, start = tuple(tuple(s[0] for s in state) for state in start), None
        mask_BTS = None
        if memory is not None:
            mask_BTS = masks.same_segment(jnp.broadcast_to(document_BT, (batch, length)), memory.segments_BS)
        attends = memory is not None and self.kind != "none"
        call = (x_TBE, steps, start, states, memory, mask_BTS, positions_BT)
        if attends and (self.context_input or self.input_feeding):
            reading, states, feed = self._step_by_step(*call, feed, deterministic)
        else:
            reading, states = self._layer_by_layer(*call, deterministic)
        if cache is None:
            return reading, None
        new = {"states": states, "segment": steps.last_B}
        return reading, {**new, "feed": feed} if self.input_feeding else new

    def _layer_by_layer(self, x_TBE, steps: Steps | None, start, states, memory, mask_BTS, positions_BT, deterministic):
        """All time at once but for the recurrence itself."""
        context_BTC, new_states = None, []
        if memory is not None and "summary" in memory.prepared:
            picked_BTS = _first(mask_BTS).astype(self.dtype)
            context_BTC = jnp.einsum("BTS,BSC->BTC", picked_BTS, memory.prepared["summary"])
            x_TBE = jnp.concatenate([x_TBE, context_BTC.transpose(1, 0, 2)], axis=-1)
        for i, layer in enumerate(self.layers):
            if i:
                x_TBE = self.between[i - 1](x_TBE, deterministic)
            begins = None if start is None else start[i]
            state, after = run(self.cell, layer(x_TBE.shape[-1]), x_TBE, states[i], steps=steps, start=begins, dtype=self.dtype)
            new_states.append(state)
            x_TBE = self.outputs[i](after[-1].astype(self.dtype))
        state_BTW, attentional_BTR = x_TBE.transpose(1, 0, 2), None
        if memory is not None and self.kind != "none":
            where = dict(q_positions_BT=positions_BT, k_positions_BS=memory.prepared.get("positions"))
            context_BTC, _ = self.attention(state_BTW, memory.prepared["keys"], memory.values_BSD, mask_BTS, **where)
        if context_BTC is not None and self.attentional_dim is not None:
            both_BTI = jnp.concatenate([context_BTC, state_BTW], axis=-1)
            kernel = self.attentional(both_BTI.shape[-1])["kernel"].astype(self.dtype)
            attentional_BTR = jnp.tanh(jnp.dot(both_BTI, kernel, preferred_element_type=jnp.float32)).astype(self.dtype)
        return Reading(state_BTW, context_BTC, attentional_BTR), tuple(new_states)

    def _step_by_step(self, x_TBE, steps: Steps | None, start, states, memory, mask_BTS, positions_BT, feed, deterministic):
        """One scan over time, in which attention's result enters the cells; what does not depend on it is hoisted out."""
        length, batch = x_TBE.shape[:2]
        context_dim = memory.values_BSD.shape[-1]
        extra = (context_dim if self.context_input else 0) + (self.attentional_dim if self.input_feeding else 0)
        layers = [layer(x_TBE.shape[-1] + extra if i == 0 else self.width) for i, layer in enumerate(self.layers)]
        kernels, addends = {}, {}
        for i, layer in enumerate(layers):
            kernels[f"inputs_{i}"] = layer["kernel"][-extra:] if i == 0 else layer["kernel"]
            kernels[f"recurrent_{i}"] = layer["recurrent_kernel"]
            bias_TBG = jnp.broadcast_to(layer["bias"][None, None], (length, batch, layer["bias"].shape[0]))
            addends[f"inputs_{i}"] = input_gates(layer, x_TBE, self.dtype) if i == 0 else bias_TBG
            addends |= {f"recurrent_{i}": a for a in recurrent_addend(layer, length, batch).values()}
        kernels |= {f"attention_{name}": kernel for name, kernel in self.attention.kernels(self.width).items()}
        if self.attentional_dim is not None:
            kernels["attentional"] = self.attentional(context_dim + self.width)["kernel"]
        prepared = {name: memory.prepared[name] for name in ("keys", "positions") if name in memory.prepared}
        constants = {**prepared, "values": memory.values_BSD, "vectors": self.attention.vectors()}
        xs = {**marks(steps), "mask": mask_BTS.transpose(1, 0, 2)}
        xs["position"] = jnp.broadcast_to(positions_BT, (batch, length)).T
        if start is not None:
            xs["start"] = start
        ones = jnp.ones((length, batch, self.width), jnp.float32)
        xs["dropout"] = tuple(drop(ones, deterministic) for drop in self.between) if self.dropout and not deterministic else ()
        attend = attend_fn(self.kind, self.window, self.predict_centre, self.dtype, self.num_heads)
        step = functools.partial(_step, self.cell, attend, self.context_input, self.attentional_dim is not None)
        (states, feed), (state, context, attentional, weights) = ops.scan(
            step, self.dtype, False, kernels, addends, constants, (states, feed), xs
        )
        self.attention.record(weights.transpose(1, 2, 0, 3))
        # of what is read out only the last part is a place: inside the scan no module can be called
        state, attentional = (self.outputs[-1](state), None) if attentional is None else (state, self.outputs[-1](attentional))
        outputs = (None if x is None else x.transpose(1, 0, 2).astype(self.dtype) for x in (state, context, attentional))
        return Reading(*outputs), states, feed


def _step(cell: ops.Kind, attend, context_input: bool, attentional: bool, dense, constants, carry, x):
    """One time step: (states, feed) -> (states, feed), (h, context, attentional hidden state, weights_BNS)."""
    old_states, old_feed = carry
    states = tuple(begin(x, state, x["start"][i] if "start" in x else None) for i, state in enumerate(old_states))
    feed = None if old_feed is None else begin(x, (old_feed,), None)[0]

    def read(h_BW):
        context_B1C, weights_BN1S = attend(
            lambda name, q_B1W: dense(f"attention_{name}", q_B1W[:, 0])[:, None],
            constants["vectors"],
            h_BW[:, None],
            constants["keys"],
            constants["values"],
            x["mask"][:, None],
            x["position"][:, None],
            constants.get("positions"),
        )
        return context_B1C[:, 0].astype(jnp.float32), weights_BN1S[:, :, 0]

    context = weights = None
    if context_input:  # the state before this token asks (Bahdanau), else the state after it (Luong)
        context, weights = read(states[-1][-1])
    inputs = jnp.concatenate([part for part in (context, feed) if part is not None], axis=-1)
    new_states = []
    for i, state in enumerate(states):
        if i:
            inputs = inputs * x["dropout"][i - 1] if x["dropout"] else inputs
        state = ops.update(cell, dense(f"inputs_{i}", inputs), dense(f"recurrent_{i}", state[-1]), state)
        new_states.append(state)
        inputs = state[-1]
    if not context_input:
        context, weights = read(inputs)
    hidden = jnp.tanh(dense("attentional", jnp.concatenate([context, inputs], axis=-1))) if attentional else None
    new = (tuple(new_states), None if feed is None else hidden)
    return hold(x, new, carry), (inputs, context, hidden, weights)


def _first(mask_BTS: jax.Array) -> jax.Array:
    """Returns the mask with only the first key of each query left."""
    return mask_BTS & (jnp.cumsum(mask_BTS, axis=-1, dtype=jnp.int32) == 1)


def _starts(document_BT: jax.Array, memory: Memory | None) -> tuple | None:
    """Returns each layer's state to begin with, [T, B, W]: that of the document of the same number in memory, zeros where there is none."""
    if memory is None or memory.prepared["start"] is None:
        return None
    picked_BTS = _first(masks.same_segment(document_BT, memory.segments_BS)).astype(jnp.float32)
    return jax.tree.map(lambda s_BSW: jnp.einsum("BTS,BSW->TBW", picked_BTS, s_BSW), memory.prepared["start"])
