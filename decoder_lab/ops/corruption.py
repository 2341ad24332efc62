"""Texts with something missing, for models that learn to restore it: single tokens (BERT) and spans (T5). All shapes are fixed.

Every row draws from a key of its own (`row_keys`), so that a row's corruption does not depend on the rows beside it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def row_keys(tokens_BT: jax.Array, key: jax.Array | None) -> jax.Array:
    """Returns keys_B: from `key` while training; None gives keys that follow from the row itself, the same in every evaluation."""
    if key is not None:
        return jax.random.split(key, tokens_BT.shape[0])
    factors_T = jnp.cumprod(jnp.full((tokens_BT.shape[1],), 0x9E3779B1, jnp.uint32))  # odd: every token counts
    digest_B = jnp.sum((tokens_BT.astype(jnp.uint32) + jnp.uint32(1)) * factors_T[None], axis=1, dtype=jnp.uint32)
    return jax.vmap(lambda digest: jax.random.fold_in(jax.random.key(0), digest))(digest_B)


def real_places(segments_BT: jax.Array | None, weights_BT: jax.Array) -> jax.Array:
    """Returns bool [B,T] of a batch of rows: where a token stands, and not padding. weights_BT are those of the next tokens."""
    if segments_BT is not None:
        return jnp.asarray(segments_BT) != 0
    labelled_BT = jnp.asarray(weights_BT) > 0  # a place whose label counts, or which is such a label itself
    return labelled_BT | jnp.pad(labelled_BT[:, :-1], ((0, 0), (1, 0)))


class Masked(NamedTuple):
    """A batch with masked tokens.

    `places_BK` are the columns to predict, `labels_BK` what stood there, `weights_BK` 0 where a row has fewer than K such places.
    """

    tokens_BT: jax.Array
    places_BK: jax.Array
    labels_BK: jax.Array
    weights_BK: jax.Array


def num_masked(length: int, rate: float) -> int:
    """Returns K, the places to predict in a full row of `length` tokens."""
    return max(1, round(rate * length))


def mask_tokens(
    keys_B: jax.Array,
    tokens_BT: jax.Array,
    eligible_BT: jax.Array,
    *,
    rate: float,
    mask_id: int,
    vocab_size: int,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> Masked:
    """Chooses a share `rate` of each row's eligible tokens (one at least), without replacement, and hides them (Devlin et al. 2019, A.1).

    Of the chosen, `mask_share` become `mask_id`, `random_share` a token drawn from range(vocab_size), the rest stay as they are.
    """
    size = num_masked(tokens_BT.shape[1], rate)
    scores_BT, kind_BK, random_BK = jax.vmap(
        lambda key: (
            jax.random.uniform(jax.random.fold_in(key, 0), tokens_BT.shape[1:]),
            jax.random.uniform(jax.random.fold_in(key, 1), (size,)),
            jax.random.randint(jax.random.fold_in(key, 2), (size,), 0, vocab_size, tokens_BT.dtype),
        )
    )(keys_B)
    _, places_BK = jax.lax.top_k(jnp.where(eligible_BT, scores_BT, -1.0), size)
    eligible_B = jnp.sum(eligible_BT, axis=1, dtype=jnp.float32)
    wanted_B = jnp.clip(jnp.round(rate * eligible_B), jnp.minimum(eligible_B, 1.0), float(size))
    weights_BK = (jnp.arange(size, dtype=jnp.float32)[None] < wanted_B[:, None]).astype(jnp.float32)
    labels_BK = jnp.take_along_axis(tokens_BT, places_BK, axis=1)
    shown_BK = jnp.where(kind_BK < mask_share, jnp.asarray(mask_id, tokens_BT.dtype), labels_BK)
    shown_BK = jnp.where((kind_BK >= mask_share) & (kind_BK < mask_share + random_share), random_BK, shown_BK)
    shown_BK = jnp.where(weights_BK > 0, shown_BK, labels_BK)
    rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
    return Masked(tokens_BT.at[rows_B1, places_BK].set(shown_BK), places_BK, labels_BK, weights_BK)


class SpanSizes(NamedTuple):
    """The sizes that follow from a row of `length` tokens: noise tokens, spans of them, and the two texts with an end each."""

    noise: int
    spans: int
    inputs: int
    targets: int


def span_sizes(length: int, rate: float, mean_span: float) -> SpanSizes:
    """Returns the sizes of a full row (Raffel et al. 2020, section 3.1.4)."""
    noise = min(max(round(length * rate), 1), max(length - 1, 0))
    spans = min(max(round(noise / mean_span), 1), noise, length - noise) if noise else 0
    return SpanSizes(noise, spans, length - noise + spans + 1, noise + spans + 1)


def noise_spans(key: jax.Array, real_T: jax.Array, *, rate: float, mean_span: float) -> jax.Array:
    """Returns span_T int32: in which span to hide (1, 2, ...) each token is, 0 for those that stay, of one row.

    As in T5's code: noise and rest are each cut at random into as many parts, which take turns, the rest first, so that a row
    ends hidden. real_T: False is padding.
    """
    size = span_sizes(real_T.shape[0], rate, mean_span)
    if not size.spans:
        return jnp.zeros(real_T.shape, jnp.int32)
    total = jnp.sum(real_T, dtype=jnp.int32)
    some = jnp.round(total.astype(jnp.float32) * rate).astype(jnp.int32)
    noise = jnp.where(total < 2, 0, jnp.clip(some, 1, jnp.maximum(total - 1, 1)))
    some = jnp.round(noise.astype(jnp.float32) / mean_span).astype(jnp.int32)
    spans = jnp.clip(some, jnp.minimum(noise, 1), jnp.minimum(noise, total - noise))
    noise_key, rest_key = jax.random.split(key)
    lengths_2M = jnp.stack(
        [_parts(rest_key, total - noise, spans, real_T.shape[0], size.spans), _parts(noise_key, noise, spans, real_T.shape[0], size.spans)],
        axis=1,
    ).reshape(-1)
    rank_T = jnp.cumsum(real_T.astype(jnp.int32)) - 1
    part_T = jnp.searchsorted(jnp.cumsum(lengths_2M), rank_T, side="right").astype(jnp.int32)
    hidden_T = real_T & (part_T % 2 == 1) & (part_T < 2 * size.spans)
    return jnp.where(hidden_T, part_T // 2 + 1, 0)


def _parts(key: jax.Array, total: jax.Array, count: jax.Array, most: int, max_count: int) -> jax.Array:
    """Returns int32 [max_count]: `total` (at most `most`) cut at random into `count` parts of at least one, the rest 0."""
    places = jnp.arange(most)
    scores = jnp.where((places >= 1) & (places < total), jax.random.uniform(key, (most,)), 2.0)
    rank = jnp.argsort(jnp.argsort(scores))
    starts = (places == 0) | ((rank < count - 1) & (scores < 2.0))
    part = jnp.cumsum(starts.astype(jnp.int32)) - 1
    there = (places < total).astype(jnp.int32)
    return jnp.zeros((max_count,), jnp.int32).at[part].add(there, mode="drop")


def hide_spans(
    tokens_T: jax.Array, real_T: jax.Array, span_T: jax.Array, *, first_sentinel: int, eos_id: int, num_inputs: int, num_targets: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns (inputs, their segments, labels, their segments) of one row: int32 of the given sizes, segments 1 and 0 behind the end.

    Span i is one sentinel in the inputs, and in the labels that sentinel followed by the span; both end with eos. Sentinels count down
    from `first_sentinel`. A row without tokens gives only padding.
    """
    before_T = jnp.concatenate([jnp.zeros((1,), span_T.dtype), span_T[:-1]])
    first_T = (span_T > 0) & (span_T != before_T)
    sentinel_T = first_sentinel + 1 - span_T
    hidden_T = span_T > 0

    def written(size: int, *parts) -> tuple[jax.Array, jax.Array]:
        text, count = jnp.zeros((size,), jnp.int32), jnp.zeros((), jnp.int32)
        for values_T, places_T, chosen_T in parts:
            text = text.at[jnp.where(chosen_T, places_T, size)].set(values_T.astype(jnp.int32), mode="drop")
            count += jnp.sum(chosen_T, dtype=jnp.int32)
        count += (count > 0).astype(jnp.int32)  # the end
        index = jnp.arange(size)
        return jnp.where(index == count - 1, eos_id, text), (index < count).astype(jnp.int32)

    kept_T = real_T & (~hidden_T | first_T)
    inputs = written(num_inputs, (jnp.where(hidden_T, sentinel_T, tokens_T), jnp.cumsum(kept_T.astype(jnp.int32)) - 1, kept_T))
    place_T = jnp.cumsum(hidden_T.astype(jnp.int32)) - 1 + span_T
    labels = written(num_targets, (tokens_T, place_T, hidden_T), (sentinel_T, place_T - 1, first_T))
    return *inputs, *labels
