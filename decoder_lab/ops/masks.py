"""Who may attend whom. Masks are boolean, True where attending is allowed, with axes BTS (B may be 1).

Segments number the documents of a row from 1; segment 0 is padding. Nobody attends padding, and padding attends nobody.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Causality = Literal["rows", "positions"] | None


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
