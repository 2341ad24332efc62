"""Beam search: K prefixes live a prompt, and the best texts that have ended are kept apart, so that they never crowd out the living."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.decoding import context, filters
from decoder_lab.decoding.context import Decoder, Rows
from decoder_lab.decoding.settings import Beam

LEAST_COVERAGE = 1e-6  # what a source position that was never looked at counts as having received


class State(NamedTuple):
    """K adjacent rows are a prompt's live prefixes, in no order; its K best ended texts stand best first. N: room for tokens."""

    rows: Rows
    live_BK: jax.Array  # float32: log-probability of each live prefix; -inf where there is none
    score_BK: jax.Array  # float32: score of each ended text (log-probability over length penalty); -inf where there is none
    logprob_BK: jax.Array  # float32
    length_BK: jax.Array  # int32: tokens of each ended text, eos included
    text_BKN: jax.Array  # int32
    done_B: jax.Array  # bool: nothing that still lives can be among the best `num_return`
    coverage_RS: jax.Array | None = None  # float32: attention each source position got from each live prefix; None where nobody asks

    @property
    def done_R(self):
        return jnp.repeat(self.done_B, self.live_BK.shape[1])


def begin(rows: Rows, settings: Beam, num_columns: int) -> State:
    """Returns the state in which each prompt, in `size` adjacent rows, is one live prefix and no text has ended."""
    size = settings.size
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
        coverage_RS=jnp.zeros(rows.memory.segments_BS.shape, jnp.float32) if settings.coverage_penalty else None,
    )


def norm(settings: Beam, length):
    """Returns what the log-probability of a text of `length` generated tokens is divided by."""
    return ((5.0 + length) / 6.0 if settings.length_norm == "gnmt" else 1.0 * length) ** settings.length_penalty


def _coverage_term_BK(state: State, settings: Beam):
    """Returns coverage_penalty * cp (GNMT, arXiv:1609.08144, equation 15) of every live prefix; padding counts for nothing."""
    if state.coverage_RS is None:
        return jnp.zeros_like(state.live_BK)
    logs_RS = jnp.log(jnp.clip(state.coverage_RS, LEAST_COVERAGE, 1.0))
    cp_R = jnp.sum(jnp.where(state.rows.memory.segments_BS == 0, 0.0, logs_RS), axis=1)
    return settings.coverage_penalty * cp_R.reshape(state.live_BK.shape)


def _candidates(logits_RV, live_BK, log_z_R):
    """Returns (logprob_BC, parent_BC, token_BC) of the 2K most probable continuations, best first: at least K of them go on."""
    num_prompts, size = live_BK.shape
    per_row = min(2 * size, logits_RV.shape[1])
    best_RJ, token_RJ = jax.lax.top_k(logits_RV, per_row)
    best_RJ = best_RJ - log_z_R[:, None]
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
    coverage_BC = jnp.take_along_axis(_coverage_term_BK(state, settings), parent_BC, axis=1)
    score_BC = jnp.where(ends_BC, logprob_BC / norm(settings, count + 1) + coverage_BC, -jnp.inf)
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
    count = rows.newest + 1 - (rows.page_RW.shape[1] - num_columns)  # tokens before this one
    if state.coverage_RS is None:
        logits_RV, cache = context.step_newest(decoder, params, rows)
    else:
        logits_RV, cache, weights_RS = context.attend_newest(decoder, params, rows)
        state = state._replace(coverage_RS=state.coverage_RS + weights_RS)
    log_z_R = jax.nn.logsumexp(logits_RV, axis=1)  # of the model itself: a forbidden eos makes nothing else more probable
    logits_RV = filters.ban_until(logits_RV, eos_id, count, settings.min_tokens)
    logprob_BC, parent_BC, token_BC = _candidates(logits_RV, state.live_BK, log_z_R)
    if eos_id is not None:
        ends_BC = token_BC == eos_id
        state = _keep_ended(state, settings, count, logprob_BC, parent_BC, ends_BC)
        logprob_BC = jnp.where(ends_BC, -jnp.inf, logprob_BC)
    live_BK, index_BK = jax.lax.top_k(logprob_BC, size)
    index_BK = jnp.take_along_axis(index_BK, stay_in_place(jnp.take_along_axis(parent_BC, index_BK, axis=1)), axis=1)
    live_BK, parent_BK, token_BK = (jnp.take_along_axis(x, index_BK, axis=1) for x in (logprob_BC, parent_BC, token_BC))
    rows_R = (parent_BK + size * jnp.arange(num_prompts)[:, None]).reshape(-1)
    page_RW = jax.lax.dynamic_update_slice_in_dim(rows.page_RW[rows_R], token_BK.reshape(-1, 1), rows.newest + 1, axis=1)
    rows = rows._replace(page_RW=page_RW, newest=rows.newest + 1, cache=context.move_rows(cache, rows_R))
    # The log-probability of a prefix only falls, so its best possible score is at the most favourable length left; cp is at most 0.
    best_B = jnp.max(live_BK, axis=1)
    bound_B = jnp.maximum(best_B / norm(settings, count + 2), best_B / norm(settings, limit))
    done_B = state.done_B | (state.score_BK[:, num_return - 1] >= bound_B)
    coverage_RS = None if state.coverage_RS is None else state.coverage_RS[rows_R]
    return state._replace(rows=rows, live_BK=live_BK, done_B=done_B, coverage_RS=coverage_RS)


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
    cut_BK = state.live_BK / norm(settings, limit) + _coverage_term_BK(state, settings)
    score_BK, logprob_BK, length_BK, text_BKN, live_BK, cut_BK, page_RW, done_B = jax.device_get(
        (state.score_BK, state.logprob_BK, state.length_BK, state.text_BKN, state.live_BK, cut_BK, state.rows.page_RW, state.done_B)
    )
    size, num_columns = score_BK.shape[1], text_BKN.shape[2]
    results = []
    for b in range(len(score_BK)):
        found = [
            (float(score_BK[b, k]), float(logprob_BK[b, k]), text_BKN[b, k, : length_BK[b, k] - 1].tolist(), True) for k in range(size)
        ]
        if not done_B[b]:
            written_KN = page_RW[b * size : (b + 1) * size, -num_columns:]
            found += [(float(cut_BK[b, k]), float(live_BK[b, k]), written_KN[k, :limit].tolist(), False) for k in range(size)]
        found = [x for x in found if np.isfinite(x[0])]
        results.append(sorted(found, key=lambda x: -x[0])[:num_return])
    return results
