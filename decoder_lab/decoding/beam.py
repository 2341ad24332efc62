"""Beam search: K prefixes live a prompt, and the best texts that have ended are kept apart, so that they never crowd out the living."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.decoding import context
from decoder_lab.decoding.context import Decoder, Rows
from decoder_lab.decoding.settings import Beam


class State(NamedTuple):
    """K adjacent rows are a prompt's live prefixes, in no order; its K best ended texts stand best first. N: room for tokens."""

    rows: Rows
    live_BK: jax.Array  # float32: log-probability of each live prefix; -inf where there is none
    score_BK: jax.Array  # float32: score of each ended text (log-probability over length penalty); -inf where there is none
    logprob_BK: jax.Array  # float32
    length_BK: jax.Array  # int32: tokens of each ended text, eos included
    text_BKN: jax.Array  # int32
    done_B: jax.Array  # bool: nothing that still lives can be among the best `num_return`

    @property
    def done_R(self):
        return jnp.repeat(self.done_B, self.live_BK.shape[1])


def begin(rows: Rows, size: int, num_columns: int) -> State:
    """Returns the state in which each prompt, in `size` adjacent rows, is one live prefix and no text has ended."""
    num_prompts = rows.page_RW.shape[0] // size

    def nothing_BK():  # an array each: a buffer can be donated once only
        return jnp.full((num_prompts, size), -jnp.inf, jnp.float32)

    return State(
        rows=rows,
        live_BK=nothing_BK().at[:, 0].set(0.0),  # the copies of a prompt are one prefix, not K
        score_BK=nothing_BK(),
        logprob_BK=nothing_BK(),
        length_BK=jnp.zeros((num_prompts, size), jnp.int32),
        text_BKN=jnp.zeros((num_prompts, size, num_columns), jnp.int32),
        done_B=jnp.zeros(num_prompts, bool),
    )


def penalty(length, alpha: float):
    """Returns GNMT's length penalty (arXiv:1609.08144, equation 14) for `length` generated tokens."""
    return ((5.0 + length) / 6.0) ** alpha


def _candidates(logits_RV, live_BK):
    """Returns (logprob_BC, parent_BC, token_BC) of the 2K most probable continuations, best first: at least K of them go on."""
    num_prompts, size = live_BK.shape
    per_row = min(2 * size, logits_RV.shape[1])
    best_RJ, token_RJ = jax.lax.top_k(logits_RV, per_row)
    best_RJ = best_RJ - jax.nn.logsumexp(logits_RV, axis=1, keepdims=True)
    total_BX = (live_BK[:, :, None] + best_RJ.reshape(num_prompts, size, per_row)).reshape(num_prompts, -1)
    logprob_BC, index_BC = jax.lax.top_k(total_BX, min(2 * size, total_BX.shape[1]))
    return logprob_BC, index_BC // per_row, jnp.take_along_axis(token_RJ.reshape(num_prompts, -1), index_BC, axis=1)


def stay_in_place(parent_BK):
    """Returns order_BK: the child for each row, so that each parent with children has one in its own row.

    Rows then change hands only from a row that stays to one whose prefix died: a copy in place, and none at all in many steps.
    """
    size = parent_BK.shape[1]
    same_BKK = parent_BK[:, :, None] == parent_BK[:, None, :]
    first_BK = ~jnp.any(same_BKK & jnp.tri(size, k=-1, dtype=bool)[None], axis=2)
    parents_BKK = parent_BK[:, :, None] == jnp.arange(size)[None, None, :]
    free_BK = jnp.argsort(jnp.any(parents_BKK, axis=1), axis=1)  # rows without children first
    rank_BK = jnp.maximum(jnp.cumsum(~first_BK, axis=1) - 1, 0)
    place_BK = jnp.where(first_BK, parent_BK, jnp.take_along_axis(free_BK, rank_BK, axis=1))
    return jnp.argsort(place_BK, axis=1)


def _keep_ended(state: State, settings: Beam, count, logprob_BC, parent_BC, ends_BC) -> State:
    """Merges the candidates that end their text with the ended texts; `count` tokens stand before the eos."""
    num_prompts, size, num_columns = state.text_BKN.shape
    # An ending that is not among the best K continuations would never have been found by a beam of K: it is no result of this search.
    ends_BC &= (jnp.arange(ends_BC.shape[1])[None, :] < size) & ~state.done_B[:, None]
    score_BC = jnp.where(ends_BC, logprob_BC / penalty(count + 1, settings.length_penalty), -jnp.inf)
    score_BK, index_BK = jax.lax.top_k(jnp.concatenate([state.score_BK, score_BC], axis=1), size)

    def merge(old_BK, new_BC):
        return jnp.take_along_axis(jnp.concatenate([old_BK, new_BC], axis=1), index_BK, axis=1)

    source_BK = merge(jnp.broadcast_to(jnp.arange(size)[None, :], score_BK.shape), size + parent_BC)
    written_BKN = state.rows.page_RW[:, -num_columns:].reshape(num_prompts, size, num_columns)
    texts_BXN = jnp.concatenate([state.text_BKN, written_BKN], axis=1)
    return state._replace(
        score_BK=score_BK,
        logprob_BK=merge(state.logprob_BK, logprob_BC),
        length_BK=merge(state.length_BK, jnp.broadcast_to(count + 1, logprob_BC.shape)),
        text_BKN=jnp.take_along_axis(texts_BXN, source_BK[:, :, None], axis=1),
    )


def _step(decoder: Decoder, settings: Beam, eos_id: int | None, num_return: int, params, state: State, limit) -> State:
    rows, (num_prompts, size), num_columns = state.rows, state.live_BK.shape, state.text_BKN.shape[2]
    logits_RV, cache = context.step_newest(decoder, params, rows)
    logprob_BC, parent_BC, token_BC = _candidates(logits_RV, state.live_BK)
    count = rows.newest + 1 - (rows.page_RW.shape[1] - num_columns)  # tokens before this one
    if eos_id is not None:
        ends_BC = token_BC == eos_id
        state = _keep_ended(state, settings, count, logprob_BC, parent_BC, ends_BC)
        logprob_BC = jnp.where(ends_BC, -jnp.inf, logprob_BC)
    live_BK, index_BK = jax.lax.top_k(logprob_BC, size)
    index_BK = jnp.take_along_axis(index_BK, stay_in_place(jnp.take_along_axis(parent_BC, index_BK, axis=1)), axis=1)
    live_BK, parent_BK, token_BK = (jnp.take_along_axis(x, index_BK, axis=1) for x in (logprob_BC, parent_BC, token_BC))
    rows_R = (parent_BK + size * jnp.arange(num_prompts)[:, None]).reshape(-1)
    page_RW = jax.lax.dynamic_update_slice_in_dim(rows.page_RW[rows_R], token_BK.reshape(-1, 1), rows.newest + 1, axis=1)
    rows = Rows(page_RW, rows.start_R, rows.newest + 1, context.move_rows(cache, rows_R))
    # The log-probability of a prefix only falls, so its best possible score is at the most favourable length left.
    best_B = jnp.max(live_BK, axis=1)
    bound_B = jnp.maximum(best_B / penalty(count + 2, settings.length_penalty), best_B / penalty(limit, settings.length_penalty))
    return state._replace(rows=rows, live_BK=live_BK, done_B=state.done_B | (state.score_BK[:, num_return - 1] >= bound_B))


@functools.partial(jax.jit, static_argnames=("decoder", "settings", "eos_id", "num_return"), donate_argnames=("state",))
def advance(decoder: Decoder, settings: Beam, eos_id: int | None, num_return: int, params, state: State, limit, stop) -> State:
    """Searches until column `stop` is the newest, the `num_return` best of every prompt are certain, or a context has to roll.

    Args:
      limit: int32 scalar, the most tokens a text may have, eos included.
      stop: int32 scalar, as for sampling.
    """

    def going(state):
        rolls = jnp.any(context.full(decoder, state.rows, state.done_R))
        return (state.rows.newest < stop) & ~jnp.all(state.done_B) & ~rolls

    return jax.lax.while_loop(going, lambda state: _step(decoder, settings, eos_id, num_return, params, state, limit), state)


def hypotheses(state: State, settings: Beam, limit: int, num_return: int) -> list[list[tuple[float, float, list[int], bool]]]:
    """Gives each prompt's best `(score, logprob, tokens without eos, ended)` of those that ended and those cut at `limit`, best first."""
    score_BK, logprob_BK, length_BK, text_BKN, live_BK, page_RW, done_B = jax.device_get(
        (state.score_BK, state.logprob_BK, state.length_BK, state.text_BKN, state.live_BK, state.rows.page_RW, state.done_B)
    )
    size, num_columns = score_BK.shape[1], text_BKN.shape[2]
    results = []
    for b in range(len(score_BK)):
        found = [
            (float(score_BK[b, k]), float(logprob_BK[b, k]), text_BKN[b, k, : length_BK[b, k] - 1].tolist(), True) for k in range(size)
        ]
        if not done_B[b]:
            written_KN = page_RW[b * size : (b + 1) * size, -num_columns:]
            cut = [(float(x / penalty(limit, settings.length_penalty)), float(x)) for x in live_BK[b]]
            found += [(*cut[k], written_KN[k, :limit].tolist(), False) for k in range(size)]
        found = [x for x in found if np.isfinite(x[0])]
        results.append(sorted(found, key=lambda x: -x[0])[:num_return])
    return results
