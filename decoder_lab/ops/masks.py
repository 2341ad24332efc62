"""Who may attend whom, and the softmax over those. Masks are boolean, True where attending is allowed, with axes BTS (B may be 1).

Segments number the documents of a row from 1; segment 0 is padding. Nobody attends padding, and padding attends nobody.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Causality = Literal["rows", "positions"] | None
MASKED = -1e30  # a logit that no real one comes near; finite in float32, so that no infinity meets another in a gradient


def visible(q_order_BT: jax.Array, k_order_BS: jax.Array, *, causal: bool = True, window: int | None = None) -> jax.Array:
    """Returns mask_BTS: the key is not later than the query, and less than `window` behind it (1 = only itself)."""
    distance_BTS = q_order_BT[:, :, None] - k_order_BS[:, None, :]
    mask_BTS = distance_BTS >= 0 if causal else jnp.ones_like(distance_BTS, dtype=bool)
    if window is not None:
        mask_BTS &= distance_BTS < window
        if not causal:
            mask_BTS &= distance_BTS > -window
    return mask_BTS


def same_segment(q_segments_BT: jax.Array, k_segments_BS: jax.Array) -> jax.Array:
    """Returns mask_BTS: query and key belong to the same document, and the key is no padding."""
    return (q_segments_BT[:, :, None] == k_segments_BS[:, None, :]) & (k_segments_BS[:, None, :] != 0)


def both(q_marks_BT: jax.Array, k_marks_BS: jax.Array) -> jax.Array:
    """Returns mask_BTS: query and key are both marked (not 0), such as those of a prefix that is read in both directions."""
    return (q_marks_BT != 0)[:, :, None] & (k_marks_BS != 0)[:, None, :]


def readable(q_segments_BT: jax.Array, k_segments_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the segments by which targets read a memory: document k reads document k where the memory's row holds several, else all."""
    several_B1 = jnp.max(k_segments_BS, axis=1, keepdims=True, initial=0) > 1
    return jnp.where(several_B1, q_segments_BT, jnp.minimum(q_segments_BT, 1)), k_segments_BS


def softmax(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns the float32 softmax over the last axis, 0 where the mask (broadcast to the logits; True: may attend) is False.

    A row with nothing to attend gives zeros, with zero gradients, whatever its logits are.
    """
    logits = logits.astype(jnp.float32)
    if mask is None:
        return jax.nn.softmax(logits, axis=-1)
    weights = jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)
    return jnp.where(mask, weights, 0.0)


def positions_in_segments(segments_BT: jax.Array) -> jax.Array:
    """Returns int32 positions_BT: 0, 1, ... in every document, wherever padding stands; documents are numbered in the order they come."""
    real_BT = segments_BT != 0
    count_BT = jnp.cumsum(real_BT.astype(jnp.int32), axis=1) - 1
    newest_BT = jax.lax.cummax(segments_BT, axis=1)
    before_BT = jnp.pad(newest_BT[:, :-1], ((0, 0), (1, 0)))
    start_BT = jax.lax.cummax(jnp.where(segments_BT > before_BT, count_BT, 0), axis=1)
    return jnp.where(real_BT, count_BT - start_BT, 0)
