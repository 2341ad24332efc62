"""LSTM and GRU layers: stacked, in one direction or both, over sequences with padding and several documents.

Padding (segment 0) carries the state on unchanged, wherever it stands, so it never touches the state of a forward or a backward direction;
the state starts anew where another document begins. The products with the inputs are made for all time at once, outside the scan.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from decoder_lab.layers.initialization import normal, orthogonal
from decoder_lab.ops import recurrent as ops
from decoder_lab.ops.dropout import dropout
from decoder_lab.ops.recurrent import Kind, State


class Cell(nn.Module):
    """The parameters of an LSTM or GRU: kernel [in, G], recurrent_kernel [W, G], bias [G], all float32; of a GRU also candidate_bias [W].

    Gates stand in PyTorch's order (i f g o; r z n), whose two biases are the one here but for a GRU's candidate; kernels are transposed.
    The recurrent kernel begins orthogonal gate by gate (Saxe et al. 2013), the forget gate's bias at `forget_bias` (Jozefowicz et al.
    2015).
    """

    kind: Kind
    width: int
    forget_bias: float = 1.0

    @nn.compact
    def __call__(self, in_dim: int) -> dict[str, jax.Array]:
        """Returns the parameters by name for inputs of width `in_dim`."""
        width, gates = self.width, ops.GATES[self.kind]

        def gate_by_gate(key, shape, dtype):
            return orthogonal(key, (gates, width, width), dtype).transpose(1, 0, 2).reshape(shape)

        def bias(key, shape, dtype):
            del key
            zeros = jnp.zeros(shape, dtype)
            return zeros.at[width : 2 * width].set(self.forget_bias) if self.kind == "lstm" else zeros

        weights = {
            "kernel": self.param("kernel", normal(in_dim**-0.5), (in_dim, gates * width), jnp.float32),
            "recurrent_kernel": self.param("recurrent_kernel", gate_by_gate, (width, gates * width), jnp.float32),
            "bias": self.param("bias", bias, (gates * width,), jnp.float32),
        }
        if self.kind == "gru":
            weights["candidate_bias"] = self.param("candidate_bias", nn.initializers.zeros, (width,), jnp.float32)
        return weights


@struct.dataclass
class Steps:
    """What each entry does to a state.

    Attributes:
      real_BT: it is no padding.
      reset_BT: a document begins with it.
      last_B: int32, the document that is being read after the last entry; 0 if none has begun.
    """

    real_BT: jax.Array
    reset_BT: jax.Array
    last_B: jax.Array


def steps_of(segments_BT: jax.Array, last_B: jax.Array | None = None, reverse: bool = False) -> Steps:
    """Returns the steps of a row; `last_B` is the document that was being read before it (None, or 0: none)."""
    segments_BT = segments_BT.astype(jnp.int32)
    if reverse:
        steps = steps_of(segments_BT[:, ::-1], last_B)
        return steps.replace(real_BT=steps.real_BT[:, ::-1], reset_BT=steps.reset_BT[:, ::-1])
    batch, length = segments_BT.shape
    last_B = jnp.zeros((batch,), jnp.int32) if last_B is None else last_B
    real_BT = segments_BT != 0
    latest_BT = jax.lax.cummax(jnp.where(real_BT, jnp.arange(1, length + 1, dtype=jnp.int32)[None], 0), axis=1)
    seen_BT = jnp.concatenate([last_B[:, None], segments_BT], axis=1)
    read_BT = jnp.take_along_axis(seen_BT, latest_BT, axis=1)  # the document being read after each entry
    before_BT = jnp.concatenate([last_B[:, None], read_BT[:, :-1]], axis=1)
    return Steps(real_BT, real_BT & (before_BT != segments_BT), read_BT[:, -1])


def begin(x: dict, state: State, start: State | None) -> State:
    """Returns the state that a step of a scan begins with; x["reset"] [B, 1] if there are resets; `start` None is zeros."""
    if "reset" not in x:
        return state
    return tuple(jnp.where(x["reset"], 0.0 if start is None else start[i], s) for i, s in enumerate(state))


def hold(x: dict, new: Any, old: Any) -> Any:
    """Returns `new` where x["real"] [B, 1], which may be absent, and `old` at padding."""
    return jax.tree.map(lambda n, o: jnp.where(x["real"], n, o), new, old) if "real" in x else new


def marks(steps: Steps | None) -> dict[str, jax.Array]:
    """Returns the entries "real" and "reset", [T, B, 1], that `begin` and `hold` read at each step of a scan."""
    return {} if steps is None else {"real": steps.real_BT.T[:, :, None], "reset": steps.reset_BT.T[:, :, None]}


def input_gates(weights: dict, x_TBI: jax.Array, dtype) -> jax.Array:
    """Returns float32 x @ kernel + bias for all time; with narrower inputs, the first rows of the kernel."""
    kernel = weights["kernel"][: x_TBI.shape[-1]].astype(dtype)
    return jnp.dot(x_TBI.astype(dtype), kernel, preferred_element_type=jnp.float32) + weights["bias"][None, None]


def recurrent_addend(weights: dict, length: int, batch: int) -> dict[str, jax.Array]:
    """Returns {} for an LSTM, {"recurrent": what is added to the recurrent product} for a GRU: its candidate's bias."""
    if "candidate_bias" not in weights:
        return {}
    addend_G = jnp.pad(weights["candidate_bias"], (2 * weights["candidate_bias"].shape[0], 0))
    return {"recurrent": jnp.broadcast_to(addend_G[None, None], (length, batch, addend_G.shape[0]))}


def _step(kind: Kind, dense, constants, state: State, x: dict):
    state = begin(x, state, x.get("start"))
    new = hold(x, ops.update(kind, x.get("inputs"), dense("recurrent", state[-1]), state), state)
    return new, new


def run(
    kind: Kind, weights: dict, x_TBI: jax.Array, state: State, *, steps=None, start: State | None = None, reverse: bool = False, dtype
) -> tuple[State, State]:
    """Returns (last state, the states after each entry [T, B, W]); `start` [T, B, W] is what a document that begins there begins with."""
    gates_TBG, xs = input_gates(weights, x_TBI, dtype), marks(steps)
    if kind == "lstm":
        addends = {"recurrent": gates_TBG}
    else:
        addends, xs = recurrent_addend(weights, *x_TBI.shape[:2]), {**xs, "inputs": gates_TBG}
    if start is not None:
        xs["start"] = start
    return ops.scan(functools.partial(_step, kind), dtype, reverse, {"recurrent": weights["recurrent_kernel"]}, addends, (), state, xs)


def zero_state(kind: Kind, batch: int, width: int) -> State:
    """Returns a state of zeros."""
    return tuple(jnp.zeros((batch, width), jnp.float32) for _ in range(ops.NUM_STATES[kind]))


class Output(nn.Module):
    """What a layer puts out, as it is: a place with a name and without parameters, where adapters act."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class Starts(nn.Module):
    """The state that texts begin with where it is learned, one [W] for each part of the state; None: it is not, it has no parameters."""

    kind: Kind
    width: int

    @nn.compact
    def __call__(self) -> State | None:
        return None


def begun(learned: State | None, start: State | None, length: int, batch: int) -> State | None:
    """Returns what documents begin with, [T, B, W]: `start`, None being zeros, plus what is learned."""
    if learned is None:
        return start
    shape = (length, batch, learned[0].shape[0])
    start = tuple(jnp.zeros(shape, jnp.float32) for _ in learned) if start is None else start
    return tuple(s + w[None, None] for s, w in zip(start, learned, strict=True))


class TimeDropout(nn.Module):
    """Dropout of x_TBD; `variational`: the same mask at every time (Gal & Ghahramani 2016). Keys come from the stream "dropout"."""

    rate: float
    variational: bool = False

    @nn.compact
    def __call__(self, x_TBD: jax.Array, deterministic: bool) -> jax.Array:
        """Returns x_TBD, or x_TBD with zeros."""
        if deterministic or self.rate == 0.0:
            return x_TBD
        if not self.variational:
            return dropout(x_TBD, self.make_rng("dropout"), self.rate)
        return x_TBD * dropout(jnp.ones((1, *x_TBD.shape[1:]), x_TBD.dtype), self.make_rng("dropout"), self.rate)


@struct.dataclass
class Sequence:
    """What `Recurrent` returns; the directions are concatenated, forward first.

    Attributes:
      values_BSD: h after each entry, in the compute dtype.
      states: the final states, one entry a layer, h_BD or (c_BD, h_BD), float32: after the last real entry forward, the first backward.
      segment_states: the same for the document that each entry belongs to, [B, S, D]; undefined at padding.
    """

    values_BSD: jax.Array
    states: tuple
    segment_states: tuple


class Recurrent(nn.Module):
    """`num_layers` recurrent layers of `width` in each direction; dropout between the layers."""

    cell: Kind
    width: int
    num_layers: int = 1
    bidirectional: bool = False
    reverse: bool = False  # one direction only: from the end to the beginning
    dropout: float = 0.0
    variational: bool = False
    forget_bias: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BSI: jax.Array, segments_BS: jax.Array | None = None, deterministic: bool = True) -> Sequence:
        """Reads x_BSI; segments_BS None: no padding. What stands at padding has no influence, as long as it is finite."""
        x_SBI, batch = x_BSI.astype(self.dtype).transpose(1, 0, 2), x_BSI.shape[0]
        directions = (False, True) if self.bidirectional else (self.reverse,)
        steps = {r: None if segments_BS is None else steps_of(segments_BS, reverse=r) for r in directions}
        finals, of_segments = [], []
        for i in range(self.num_layers):
            if i:
                x_SBI = TimeDropout(self.dropout, self.variational, name=f"dropout_{i}")(x_SBI, deterministic)
            found = []
            for reverse in directions:
                name = f"{'backward' if reverse else 'forward'}_{i}"
                weights = Cell(self.cell, self.width, self.forget_bias, name=name)(x_SBI.shape[-1])
                start = begun(Starts(self.cell, self.width, name=f"start_{name}")(), None, x_SBI.shape[0], batch)
                state = zero_state(self.cell, batch, self.width) if start is None else tuple(s[0] for s in start)
                start = None if steps[reverse] is None else start
                final, states = run(self.cell, weights, x_SBI, state, steps=steps[reverse], start=start, reverse=reverse, dtype=self.dtype)
                found.append((final, states, _of_segments(final, states, segments_BS, reverse)))
            finals.append(_joined([f[0] for f in found]))
            of_segments.append(_joined([f[2] for f in found]))
            x_SBI = Output(name=f"output_{i}")(jnp.concatenate([f[1][-1].astype(self.dtype) for f in found], axis=-1))
        return Sequence(x_SBI.transpose(1, 0, 2), tuple(finals), tuple(of_segments))


def _joined(states: list[State]) -> Any:
    """Returns h_BD or (c_BD, h_BD) of the states of all directions."""
    joined = tuple(jnp.concatenate(parts, axis=-1) for parts in zip(*states, strict=True))
    return joined[0] if len(joined) == 1 else joined


def _of_segments(final: State, states_SBW: State, segments_BS: jax.Array | None, reverse: bool) -> State:
    """Returns for each entry the last state of its document, [B, S, W]."""
    length = states_SBW[0].shape[0]

    def shared():
        return tuple(jnp.broadcast_to(s[:, None], (s.shape[0], length, s.shape[1])) for s in final)

    def each():
        same_BSS = segments_BS[:, :, None] == segments_BS[:, None, :]
        order_S = jnp.arange(length, dtype=jnp.int32)[None, None]
        at_BS = jnp.min(jnp.where(same_BSS, order_S, length - 1), -1) if reverse else jnp.max(jnp.where(same_BSS, order_S, 0), -1)
        return tuple(jnp.take_along_axis(s.transpose(1, 0, 2), at_BS[:, :, None], axis=1) for s in states_SBW)

    return shared() if segments_BS is None else jax.lax.cond(has_several(segments_BS), each, shared)


def has_several(segments_BS: jax.Array) -> jax.Array:
    """Returns a bool scalar: some row holds more than one document."""
    most_B = jnp.max(segments_BS, axis=1)
    return jnp.any((segments_BS != 0) & (segments_BS != most_B[:, None]))
