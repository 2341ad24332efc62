"""The linear-chain conditional random field (Lafferty, McCallum & Pereira 2001): likelihood, best path, marginals.

A path y of T tags scores  start[y_1] + sum_t emissions[t, y_t] + sum_t between[y_{t-1}, y_t] + end[y_T];  p(y) = exp(score(y)) / Z.

`mask_BT` is True (or not 0) at words; the others are skipped wherever they stand: the words of a row form the chain. A row without words
has the empty path alone: score, log Z and loss are 0 and its gradients are zero. Everything is computed in float32.
"""

import functools

import jax
import jax.numpy as jnp

from decoder_lab.ops.tag_schemes import Transitions

FORBIDDEN = -1e9  # finite: where no allowed path exists, the one with the fewest violations wins, and no gradient is NaN


def constrained(transitions: Transitions, allowed: Transitions | None) -> Transitions:
    """Returns the scores with FORBIDDEN wherever `allowed` (bool) is False; None allows everything."""
    if allowed is None:
        return transitions
    return Transitions(*(jnp.where(jnp.asarray(a), s, jnp.float32(FORBIDDEN)) for s, a in zip(transitions, allowed, strict=True)))


def _prepared(emissions_BTC: jax.Array, mask_BT: jax.Array, transitions: Transitions):
    emissions_TBC = jnp.moveaxis(emissions_BTC, 1, 0).astype(jnp.float32)
    return emissions_TBC, mask_BT.astype(bool).T, Transitions(*(x.astype(jnp.float32) for x in transitions))


def _scan(step, emissions_TBC, mask_TB, start_C):
    """Runs `step(scores_BC, emissions_BC) -> (scores_BC, output)` over the words; returns (scores_BC, has_words_B, outputs, is_step_TB).

    Before a row's first word its scores are undefined; `is_step` is True at every word but the first.
    """

    def body(carry, inputs):
        scores_BC, begun_B = carry
        emissions_BC, is_word_B = inputs
        first_BC = start_C[None] + emissions_BC
        next_BC, output = step(scores_BC, emissions_BC)
        new_BC = jnp.where(begun_B[:, None], next_BC, first_BC)
        scores_BC = jnp.where(is_word_B[:, None], new_BC, scores_BC)
        return (scores_BC, begun_B | is_word_B), (output, is_word_B & begun_B)

    begin = jnp.zeros(emissions_TBC.shape[1:], jnp.float32), jnp.zeros(mask_TB.shape[1:], bool)
    (scores_BC, begun_B), (outputs, is_step_TB) = jax.lax.scan(body, begin, (emissions_TBC, mask_TB))
    return scores_BC, begun_B, outputs, is_step_TB


def log_partition(emissions_BTC: jax.Array, mask_BT: jax.Array, transitions: Transitions) -> jax.Array:
    """Returns log Z_B, the log of the sum over all paths, by the forward algorithm: O(T C^2)."""
    emissions_TBC, mask_TB, transitions = _prepared(emissions_BTC, mask_BT, transitions)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # keeps [B,C] of each step for the gradient, not [B,C,C]
    def step(scores_BC, emissions_BC):
        paths_BCC = scores_BC[:, :, None] + transitions.between_CC[None]
        return jax.nn.logsumexp(paths_BCC, axis=1) + emissions_BC, None

    scores_BC, has_words_B, _, _ = _scan(step, emissions_TBC, mask_TB, transitions.start_C)
    return jnp.where(has_words_B, jax.nn.logsumexp(scores_BC + transitions.end_C[None], axis=1), 0.0)


def path_score(emissions_BTC: jax.Array, tags_BT: jax.Array, mask_BT: jax.Array, transitions: Transitions) -> jax.Array:
    """Returns score_B of the given tags; what stands at masked positions, be it no tag at all, does not count."""
    transitions = Transitions(*(x.astype(jnp.float32) for x in transitions))
    mask_BT = mask_BT.astype(bool)
    tags_BT = jnp.where(mask_BT, tags_BT, 0)
    emitted_BT = jnp.take_along_axis(emissions_BTC.astype(jnp.float32), tags_BT[:, :, None], axis=2)[:, :, 0]
    place_BT = jnp.where(mask_BT, jnp.arange(mask_BT.shape[1], dtype=jnp.int32)[None], -1)
    latest_BT = jax.lax.cummax(place_BT, axis=1)  # the last word up to here, -1 before the first
    before_BT = jnp.pad(latest_BT[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    previous_BT = jnp.take_along_axis(tags_BT, jnp.maximum(before_BT, 0), axis=1)
    moved_BT = jnp.where(before_BT < 0, transitions.start_C[tags_BT], transitions.between_CC[previous_BT, tags_BT])
    last_B = latest_BT[:, -1]
    last_tag_B = jnp.take_along_axis(tags_BT, jnp.maximum(last_B, 0)[:, None], axis=1)[:, 0]
    ended_B = jnp.where(last_B < 0, 0.0, transitions.end_C[last_tag_B])
    return jnp.sum(jnp.where(mask_BT, emitted_BT + moved_BT, 0.0), axis=1) + ended_B


def log_likelihood(emissions_BTC: jax.Array, tags_BT: jax.Array, mask_BT: jax.Array, transitions: Transitions) -> jax.Array:
    """Returns log p(tags)_B, natural logarithm; 0 for a row without words."""
    return path_score(emissions_BTC, tags_BT, mask_BT, transitions) - log_partition(emissions_BTC, mask_BT, transitions)


def viterbi(emissions_BTC: jax.Array, mask_BT: jax.Array, transitions: Transitions) -> tuple[jax.Array, jax.Array]:
    """Returns the best path, int32 tags_BT (0 where masked), and its score_B (Viterbi 1967). Among equals the lower tags win."""
    emissions_TBC, mask_TB, transitions = _prepared(emissions_BTC, mask_BT, transitions)

    def step(scores_BC, emissions_BC):
        paths_BCC = scores_BC[:, :, None] + transitions.between_CC[None]
        return jnp.max(paths_BCC, axis=1) + emissions_BC, jnp.argmax(paths_BCC, axis=1).astype(jnp.int32)

    scores_BC, has_words_B, back_TBC, is_step_TB = _scan(step, emissions_TBC, mask_TB, transitions.start_C)
    final_BC = scores_BC + transitions.end_C[None]
    last_B = jnp.argmax(final_BC, axis=1).astype(jnp.int32)

    def backwards(tag_B, inputs):
        back_BC, is_step_B = inputs
        previous_B = jnp.take_along_axis(back_BC, tag_B[:, None], axis=1)[:, 0]
        return jnp.where(is_step_B, previous_B, tag_B), tag_B

    _, tags_TB = jax.lax.scan(backwards, last_B, (back_TBC, is_step_TB), reverse=True)
    tags_BT = jnp.where(mask_TB, tags_TB, 0).T
    return tags_BT, jnp.where(has_words_B, jnp.max(final_BC, axis=1), 0.0)


def marginals(emissions_BTC: jax.Array, mask_BT: jax.Array, transitions: Transitions) -> jax.Array:
    """Returns p(y_t = c)_BTC, 0 where masked: the derivative of log Z by the emissions (what forward-backward computes)."""
    emissions_BTC = emissions_BTC.astype(jnp.float32)
    return jax.grad(lambda e: jnp.sum(log_partition(e, mask_BT, transitions)))(emissions_BTC)
