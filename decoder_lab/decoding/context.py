"""What all searches share: the decoder they know, a page of tokens, and the cache that has read it.

A page is int32 [R,W] for R rows: the prompts, left-padded so that they all end in the same column, then the generated tokens. Column
`newest` holds the newest token of every row; the cache has seen everything before it. So every loop has one body: feed the newest token,
choose the next. A prompt is prefilled up to its last token, whose logits are the first ones needed; logits of a prefill are never computed.

Where the decoder has a `max_length`, the context rolls: a context that would be longer is cut to its newest `max_length // 2` tokens, these
are prefilled again with positions from 0, and generation goes on; so what the cache gives is what the uncached decoder says of the same
context. `start_R` is the column where each row's context starts.

A decoder that reads a source encodes it once a prompt; the memory is repeated for the rows of the prompt, which have one source, and so
it is never moved while the rows grow, and outlives a context that rolls.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Decoder:
    """All that decoding knows of a model. Hashable, so that compiled functions are found again; parameters are passed apart.

    Attributes:
      step: `(params, tokens_BT, positions_BT, segments_BT, cache) -> (logits_BTV, cache)`; segment 0 is padding and changes nothing real.
        With `encode` it is also given `memory=`, and with `bidirectional_prefix` the bool `prefix_BT=` in calls of several tokens.
      init_cache: `(batch_size, num_slots) -> cache`, a pytree whose leaves have the batch on axis 0 or are scalars.
      max_length: longest context in tokens; None if there is no limit.
      encode: `(params, inputs) -> memory` of a decoder that reads a source; a pytree with the batch on axis 0. None: there is no source.
      attend: as `step`, but returns (logits_BTV, cache, weights_BTS): how much each token looks at each source position, rows summing to 1.
        Only the coverage penalty of beam search needs it.
      bidirectional_prefix: all tokens of a prompt but its last see each other in both directions (prefix language models).
      max_source: inputs up to this length are never padded beyond it; None if there is no limit.
    """

    step: Callable[..., tuple[jax.Array, Any]]
    init_cache: Callable[[int, int], Any]
    max_length: int | None = None
    encode: Callable[[Any, dict], Any] | None = None
    attend: Callable[..., tuple[jax.Array, Any, jax.Array]] | None = None
    bidirectional_prefix: bool = False
    max_source: int | None = None

    def given(self, memory: Any, prefix_BT: jax.Array | None = None) -> dict[str, Any]:
        """Returns what `step` takes by name beyond its five arguments: only what this decoder knows of."""
        named = {} if memory is None else {"memory": memory}
        return named if prefix_BT is None or not self.bidirectional_prefix else {**named, "prefix_BT": prefix_BT}


def bucket(size: int) -> int:
    """Returns the least of 1, 2, 4, 8, 12, 16, 24, 32, 48, ... that is at least `size`: few shapes to compile, at most a half wasted."""
    power = 1 << max(size - 1, 0).bit_length()
    return power * 3 // 4 if power >= 16 and size <= power * 3 // 4 else power


class Rows(NamedTuple):
    """Rows of text being written, and the decoder's memory of them."""

    page_RW: jax.Array  # int32
    start_R: jax.Array  # int32: column of the first token of the context
    newest: jax.Array  # int32 scalar: column of the newest token
    cache: Any
    memory: Any = None  # the encoded source of each row


@functools.partial(jax.jit, static_argnames=("decoder",))
def encode(decoder: Decoder, params, inputs: dict) -> Any:
    """Returns the memory of a batch of inputs, a dict of arrays with the batch on axis 0."""
    return decoder.encode(params, inputs)


def _prefill(decoder: Decoder, params, page_RW, start_R, newest, memory, width: int, num_slots: int, num_prefix: int):
    """Returns a new cache of `num_slots` slots that has seen each row's columns [start, newest), of which there are at most `width`.

    Columns before `num_prefix` belong to the prompt.
    """
    cache = decoder.init_cache(page_RW.shape[0], num_slots)
    if width == 0:
        return cache
    tokens_RT = jax.lax.dynamic_slice_in_dim(page_RW, newest - width, width, axis=1)
    positions_RT = (newest - width + jnp.arange(width, dtype=jnp.int32))[None, :] - start_R[:, None]
    segments_RT = (positions_RT >= 0).astype(jnp.int32)
    prefix_RT = segments_RT.astype(bool) & ((newest - width + jnp.arange(width, dtype=jnp.int32))[None, :] < num_prefix)
    given = decoder.given(memory, prefix_RT)
    return decoder.step(params, tokens_RT, jnp.maximum(positions_RT, 0), segments_RT, cache, **given)[1]


@functools.partial(jax.jit, static_argnames=("decoder", "width", "num_slots", "copies", "num_columns"))
def begin(decoder: Decoder, params, prompt_BP, start_B, memory=None, *, width: int, num_slots: int, copies: int, num_columns: int) -> Rows:
    """Prefills each prompt once; returns `copies` adjacent rows of each, with room for `num_columns` tokens more."""
    newest = jnp.asarray(prompt_BP.shape[1] - 1, jnp.int32)
    cache = _prefill(decoder, params, prompt_BP, start_B, newest, memory, width, num_slots, prompt_BP.shape[1] - 1)
    page_BW = jnp.pad(prompt_BP, ((0, 0), (0, num_columns)))
    if copies == 1:
        return Rows(page_BW, start_B, newest, cache, memory)
    rows_R = jnp.repeat(jnp.arange(prompt_BP.shape[0]), copies)
    return Rows(page_BW[rows_R], start_B[rows_R], newest, take_rows(cache, rows_R), take_rows(memory, rows_R))


def _newest(decoder: Decoder, rows: Rows):
    """Returns the newest tokens as `step` takes them: (tokens_R1, positions_R1, segments_R1, cache)."""
    tokens_R1 = jax.lax.dynamic_slice_in_dim(rows.page_RW, rows.newest, 1, axis=1)
    positions_R1 = (rows.newest - rows.start_R)[:, None]
    if decoder.max_length is not None:
        positions_R1 = jnp.minimum(positions_R1, decoder.max_length - 1)  # only finished rows get there
    return tokens_R1, positions_R1, jnp.ones_like(tokens_R1), rows.cache


def step_newest(decoder: Decoder, params, rows: Rows):
    """Feeds every row's newest token; returns (float32 logits_RV of the next one, cache)."""
    logits_R1V, cache = decoder.step(params, *_newest(decoder, rows), **decoder.given(rows.memory))
    return logits_R1V[:, 0].astype(jnp.float32), cache


def attend_newest(decoder: Decoder, params, rows: Rows):
    """As `step_newest`; returns (logits_RV, cache, float32 weights_RS: where in the source each row looks to choose its next token)."""
    logits_R1V, cache, weights_R1S = decoder.attend(params, *_newest(decoder, rows), **decoder.given(rows.memory))
    return logits_R1V[:, 0].astype(jnp.float32), cache, weights_R1S[:, 0].astype(jnp.float32)


def full(decoder: Decoder, rows: Rows, done_R):
    """Returns bool [R]: whose context is too long for the decoder and has to roll before the next step; finished rows never have to."""
    if decoder.max_length is None:
        return jnp.zeros_like(done_R)
    return ~done_R & (rows.newest + 1 - rows.start_R > decoder.max_length)


@functools.partial(jax.jit, static_argnames=("decoder", "width", "num_slots", "num_prompt"), donate_argnames=("rows",))
def roll(decoder: Decoder, params, rows: Rows, done_R, *, width: int, num_slots: int, num_prompt: int = 1) -> Rows:
    """Cuts the contexts that are full to their newest half and prefills all rows again; the others are read again as they were.

    `num_prompt` columns of the page are the prompt's.
    """
    start_R = rows.start_R
    if decoder.max_length is not None:
        start_R = jnp.where(full(decoder, rows, done_R), rows.newest + 1 - half(decoder.max_length), start_R)
        start_R = jnp.maximum(start_R, rows.newest - width)  # only finished rows may reach further back
    cache = _prefill(decoder, params, rows.page_RW, start_R, rows.newest, rows.memory, width, num_slots, num_prompt - 1)
    return rows._replace(start_R=start_R, cache=cache)


def half(max_length: int) -> int:
    """Returns how many tokens a context keeps when it rolls."""
    return max(max_length // 2, 1)


def take_rows(cache, rows_R):
    """Returns the cache with rows `rows_R` of every leaf (axis 0; scalars are shared)."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows_R, axis=0) if jnp.ndim(leaf) else leaf, cache)


def move_rows(cache, rows_R):
    """Returns `take_rows(cache, rows_R)` where every row is either left alone or copied from a row that is: in place, only what moves.

    A step of a beam search moves few rows, and copying the whole cache would cost about as much as the step of a small decoder.
    """
    places_R = jnp.arange(rows_R.shape[0])
    moved_R = rows_R != places_R
    order_R = jnp.argsort(~moved_R)  # the moved ones first

    def move(i, cache):
        place = order_R[i]

        def copy(leaf):
            if not jnp.ndim(leaf):
                return leaf
            row = jax.lax.dynamic_slice_in_dim(leaf, rows_R[place], 1, axis=0)
            return jax.lax.dynamic_update_slice_in_dim(leaf, row, place, axis=0)

        return jax.tree.map(copy, cache)

    return jax.lax.fori_loop(0, jnp.sum(moved_R), move, cache)
