"""Initial values of parameters: normally distributed, from a counter-based hash that costs a fraction of `jax.random.normal`; orthogonal.

124M parameters take a CPU about two seconds by threefry, plus the compilation of its twenty rounds for every parameter of the model.
"""

import math

import jax
import jax.numpy as jnp

from decoder_lab.ops.random_bits import mixed, words


def normal(stddev: float):
    """Returns an initialiser (key, shape, dtype) -> independent normal values; the same on every platform and under any sharding."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        first, *_, last = words(key)
        counter = jax.lax.iota(jnp.uint32, math.prod(shape))
        bits = mixed(mixed(counter + first) ^ last)
        # the middles of 2^23 equal cells of (-1, 1), which float32 holds exactly
        uniform = (2.0 * (bits >> 9).astype(jnp.float32) + 1.0) * 2.0**-23 - 1.0
        return (jax.lax.erf_inv(uniform) * (math.sqrt(2.0) * stddev)).astype(dtype).reshape(shape)

    return init


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Returns evenly distributed orthogonal matrices [G, N, N]: products of Householder reflections (Stewart 1980, the QR of a Gaussian).

    Not `jnp.linalg.qr`: on a CPU of few cores, two batched ones that run at once wait for each other forever (jax 0.10.2).
    """
    size = shape[-1]
    x_GNN = jnp.triu(normal(1.0)(key, shape, dtype))  # row i: a Gaussian vector whose first i entries are 0
    sign_GN = jnp.where(jnp.diagonal(x_GNN, axis1=1, axis2=2) < 0, -1.0, 1.0).astype(dtype)
    v_GNN = x_GNN + (sign_GN * jnp.linalg.norm(x_GNN, axis=2))[:, :, None] * jnp.eye(size, dtype=dtype)[None]
    v_GNN /= jnp.linalg.norm(v_GNN, axis=2, keepdims=True)

    def reflect(i, q_GNN):
        v_GN = v_GNN[:, i]
        return q_GNN - 2.0 * jnp.einsum("GMN,GN->GM", q_GNN, v_GN)[:, :, None] * v_GN[:, None, :]

    q_GNN = jax.lax.fori_loop(0, size, reflect, jnp.broadcast_to(jnp.eye(size, dtype=dtype)[None], shape))
    return -q_GNN * sign_GN[:, None, :]
