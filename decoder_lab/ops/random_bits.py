"""Random bits from a counter-based hash: a twentieth of what threefry's twenty rounds cost a CPU, for dropout and initial values."""

import math

import jax
import jax.numpy as jnp


def mixed(x: jax.Array) -> jax.Array:
    """Returns uint32 values in which every input bit has flipped every output bit with probability close to a half (C. Wellons, hash32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)


def words(key: jax.Array) -> jax.Array:
    """Returns a key's uint32 words, of a typed key or a raw one."""
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns uint32 bits that depend on the key and their place in `shape` alone: the same on every platform and under any sharding.

    A row (all but the last axis) has a state of 64 bits made of the key, so that no two rows are likely to share their numbers. Not for
    cryptography; of fixed quality whatever `jax_default_prng_impl` is.
    """
    first, *_, last = words(key)
    *rows, width = shape or (1,)
    row = jax.lax.iota(jnp.uint32, math.prod(rows)).reshape(*rows, 1)
    column = jax.lax.iota(jnp.uint32, width).reshape(*(1 for _ in rows), width)
    start, turn = mixed(mixed(row ^ first) ^ last), mixed(mixed(row ^ last) + first)
    return mixed(mixed(column + start) ^ turn).reshape(shape)
