"""Dropout, whose random numbers cost about as much as reading what is dropped (`ops/random_bits.py`)."""

import jax
import jax.numpy as jnp

from decoder_lab.ops.random_bits import random_bits

RANGE = 2**32


def dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes elements with probability `rate` and scales the rest so that the expectation is kept (Srivastava et al. 2014)."""
    threshold = round(rate * RANGE)
    if not 0 <= threshold < RANGE:
        raise ValueError(f"dropout rate must be at least 0 and below 1, got {rate}")
    if threshold == 0:
        return x
    keep = random_bits(key, x.shape) >= jnp.uint32(threshold)
    return jnp.where(keep, x * jnp.asarray(RANGE / (RANGE - threshold), x.dtype), jnp.zeros((), x.dtype))
