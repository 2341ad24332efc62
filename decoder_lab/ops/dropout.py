"""Dropout on 16 random bits an element: half the random numbers of a float32 draw, which is what dropout costs on a CPU."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    """Zeroes elements with probability `rate` (to 1/65536) and scales the rest so that the expectation is exactly kept."""
    threshold = round(rate * 65536)
    if not 0 <= threshold < 65536:
        raise ValueError(f"dropout rate must be at least 0 and below 1, got {rate}")
    if threshold == 0:
        return x
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.uint16(threshold)
    return jnp.where(keep, x * jnp.asarray(65536 / (65536 - threshold), x.dtype), jnp.zeros((), x.dtype))
