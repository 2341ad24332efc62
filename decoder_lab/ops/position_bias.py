"""Biases on attention logits that depend on the distance between query and key: ALiBi and T5's relative buckets."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Returns float32 slopes_N (Press et al. 2022): 2^(-8 i / n) for n a power of two; otherwise those of the next lower power, followed by
    every other one of the next higher, as in the authors' code."""
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / lower) for i in range(lower)]
    between = [2.0 ** (-4.0 * (i + 1) / lower) for i in range(0, 2 * (num_heads - lower), 2)]
    return np.asarray(slopes + between, dtype=np.float32)


def alibi(slopes_N: jax.Array, q_positions_BT: jax.Array, k_positions_BS: jax.Array) -> jax.Array:
    """Returns float32 bias_BNTS = -slope * |query position - key position|."""
    distance_BTS = jnp.abs(q_positions_BT[:, :, None] - k_positions_BS[:, None, :]).astype(jnp.float32)
    return -slopes_N[None, :, None, None] * distance_BTS[:, None, :, :]


def t5_buckets(distance: jax.Array, *, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False) -> jax.Array:
    """Returns int32 buckets of distances (query position - key position), Raffel et al. 2020, section 2.1.

    The first half of the buckets hold one distance each, the second half grow logarithmically up to max_distance; all further ones share
    the last. bidirectional: half of the buckets for keys behind, half for keys ahead; otherwise a distance below 0 counts as 0.
    """
    if bidirectional:
        half = num_buckets // 2
        ahead = jnp.where(distance < 0, half, 0).astype(jnp.int32)
        return ahead + t5_buckets(jnp.abs(distance), num_buckets=half, max_distance=max_distance)
    exact = num_buckets // 2
    distance = jnp.maximum(distance, 0)
    # the maximum only keeps log away from 0 where its result is not used
    ratio = jnp.log(jnp.maximum(distance, exact).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (num_buckets - exact)).astype(jnp.int32)
    return jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1)).astype(jnp.int32)


def t5(
    table_CN: jax.Array, q_positions_BT: jax.Array, k_positions_BS: jax.Array, *, max_distance: int = 128, bidirectional: bool = False
) -> jax.Array:
    """Returns float32 bias_BNTS, looked up by bucket in the learned table_CN [num_buckets, num_heads]."""
    distance_BTS = q_positions_BT[:, :, None] - k_positions_BS[:, None, :]
    buckets_BTS = t5_buckets(distance_BTS, num_buckets=table_CN.shape[0], max_distance=max_distance, bidirectional=bidirectional)
    return jnp.moveaxis(jnp.take(table_CN.astype(jnp.float32), buckets_BTS, axis=0), -1, 1)
