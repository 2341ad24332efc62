"""Logit filters: pure functions `(logits_BV, history, setting) -> logits_BV`; a forbidden token gets minus infinity.

They are composed from a `Sampling`: a filter that is off leaves nothing in the compiled program.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from decoder_lab.decoding.settings import Sampling


class History(NamedTuple):
    """The text of each row so far. Columns outside `[first_B, end)` are padding, or not written yet, and count for nothing."""

    tokens_BT: jax.Array  # int32
    first_B: jax.Array  # int32: column of the first token of the prompt
    end: jax.Array  # int32 scalar: one past the column of the newest token

    def valid_BT(self) -> jax.Array:
        columns_T = jnp.arange(self.tokens_BT.shape[1])
        return (columns_T[None, :] >= self.first_B[:, None]) & (columns_T[None, :] < self.end)


def _mark(tokens_BT, where_BT, vocab_size: int):
    """Returns bool [B,V]: which ids occur in `tokens_BT` at a column where `where_BT` holds."""
    rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
    return jnp.zeros((tokens_BT.shape[0], vocab_size), bool).at[rows_B1, tokens_BT].max(where_BT)


def repetition_penalty(logits_BV, history: History, penalty: float):
    """Makes every token that the row holds less probable (CTRL, arXiv:1909.05858); the prompt counts, padding does not."""
    seen_BV = _mark(history.tokens_BT, history.valid_BT(), logits_BV.shape[1])
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def no_repeat_ngram(logits_BV, history: History, length: int):
    """Forbids each token that would complete a run of `length` tokens that the row already holds.

    A row in which that would forbid every token is left as it is: something has to be chosen.
    """
    tokens_BT = history.tokens_BT
    columns_T = jnp.arange(tokens_BT.shape[1])
    match_BT = history.valid_BT() & (columns_T[None, :] >= history.first_B[:, None] + (length - 1))
    for back in range(1, length):
        newest_B1 = jax.lax.dynamic_slice_in_dim(tokens_BT, history.end - back, 1, axis=1)
        match_BT &= jnp.roll(tokens_BT, back, axis=1) == newest_B1
    banned_BV = _mark(tokens_BT, match_BT, logits_BV.shape[1])
    banned_BV &= ~jnp.all(banned_BV, axis=1, keepdims=True)
    return jnp.where(banned_BV, -jnp.inf, logits_BV)


def top_k(logits_BV, history: History, k: int):
    """Keeps the k most probable tokens, and those that tie with the last of them."""
    kept_BK = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[1]))[0]
    return jnp.where(logits_BV < kept_BK[:, -1:], -jnp.inf, logits_BV)


def top_p(logits_BV, history: History, p: float):
    """Keeps the fewest most probable tokens whose probabilities sum to at least p, and those that tie with the last of them."""
    sorted_BV = -jnp.sort(-logits_BV, axis=1)
    probs_BV = jax.nn.softmax(sorted_BV, axis=1)
    before_BV = jnp.cumsum(probs_BV, axis=1) - probs_BV  # probability of all that stand ahead
    last_B1 = jnp.maximum(jnp.sum(before_BV < p, axis=1, keepdims=True) - 1, 0)
    return jnp.where(logits_BV < jnp.take_along_axis(sorted_BV, last_B1, axis=1), -jnp.inf, logits_BV)


def min_p(logits_BV, history: History, p: float):
    """Keeps the tokens that are at least p times as probable as the most probable one."""
    return jnp.where(logits_BV < jnp.max(logits_BV, axis=1, keepdims=True) + jnp.log(p), -jnp.inf, logits_BV)


def apply(settings: Sampling, logits_BV, history: History):
    """Applies all filters of `settings` that are on, temperature included, in the order of its fields."""
    if settings.repetition_penalty != 1:
        logits_BV = repetition_penalty(logits_BV, history, settings.repetition_penalty)
    if settings.no_repeat_ngram:
        logits_BV = no_repeat_ngram(logits_BV, history, settings.no_repeat_ngram)
    if settings.temperature == 0:
        return logits_BV
    logits_BV = logits_BV / settings.temperature
    if settings.top_k:
        logits_BV = top_k(logits_BV, history, settings.top_k)
    if settings.top_p < 1:
        logits_BV = top_p(logits_BV, history, settings.top_p)
    if settings.min_p > 0:
        logits_BV = min_p(logits_BV, history, settings.min_p)
    return logits_BV
