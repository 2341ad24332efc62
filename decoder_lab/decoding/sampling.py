"""Greedy decoding and sampling: one `while_loop` on the device, for a batch and for streaming alike."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from decoder_lab.decoding import context, filters
from decoder_lab.decoding.context import Decoder, Rows
from decoder_lab.decoding.settings import Sampling


class State(NamedTuple):
    """Rows being written, with room for N tokens each (the last N columns of the page)."""

    rows: Rows
    logprob_RN: jax.Array  # float32: log-probability of each token under the model itself, before any filter
    length_R: jax.Array  # int32: generated tokens, eos included
    done_R: jax.Array  # bool


def begin(rows: Rows, num_columns: int) -> State:
    """Returns the state in which no row has a generated token yet, with room for `num_columns`."""
    num_rows = rows.page_RW.shape[0]
    return State(rows, jnp.zeros((num_rows, num_columns), jnp.float32), jnp.zeros(num_rows, jnp.int32), jnp.zeros(num_rows, bool))


def row_keys(seed: int, prompt_R, sample_R):
    """Returns one PRNG key a row from (seed, number of the prompt, number of the sample): nothing else in the batch plays a part."""
    key = jax.random.key(seed)
    return jax.vmap(lambda prompt, sample: jax.random.fold_in(jax.random.fold_in(key, prompt), sample))(prompt_R, sample_R)


def _choose(settings: Sampling, logits_RV, keys_R, count):
    """Returns int32 [R]: the most probable tokens, or a draw with each row's own key for its `count`-th token (Gumbel-max)."""
    if settings.temperature > 0:
        noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, count), logits_RV.shape[1:]))
        logits_RV = logits_RV + noise(keys_R)
    return jnp.argmax(logits_RV, axis=1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("decoder", "settings", "eos_id"), donate_argnames=("state",))
def advance(decoder: Decoder, settings: Sampling, eos_id: int | None, params, state: State, first_R, keys_R, stop) -> State:
    """Writes tokens until column `stop` is the newest, all rows are done, or a context has to roll.

    Args:
      first_R: int32 column of each row's first prompt token (what filters look at; the context itself may start later).
      keys_R: one PRNG key a row; the n-th token of a row depends on it and on n only.
      stop: int32 scalar, not static: streaming and batch generation share the compiled function.
    """
    num_prompt = state.rows.page_RW.shape[1] - state.logprob_RN.shape[1]

    def going(state):
        rolls = jnp.any(context.full(decoder, state.rows, state.done_R))
        return (state.rows.newest < stop) & ~jnp.all(state.done_R) & ~rolls

    def body(state):
        rows = state.rows
        logits_RV, cache = context.step_newest(decoder, params, rows)
        newest = rows.newest + 1
        count = newest - num_prompt
        allowed_RV = filters.apply(settings, logits_RV, filters.History(rows.page_RW, first_R, newest), eos_id, count)
        token_R = _choose(settings, allowed_RV, keys_R, count)
        logprob_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits_RV, axis=1)
        page_RW = jax.lax.dynamic_update_slice_in_dim(rows.page_RW, token_R[:, None], newest, axis=1)
        return State(
            rows=rows._replace(page_RW=page_RW, newest=newest, cache=cache),
            logprob_RN=jax.lax.dynamic_update_slice_in_dim(state.logprob_RN, logprob_R[:, None], count, axis=1),
            length_R=state.length_R + ~state.done_R,
            done_R=state.done_R | (token_R == eos_id) if eos_id is not None else state.done_R,
        )

    return jax.lax.while_loop(going, body, state)
