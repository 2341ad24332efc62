"""How far a student is from its teacher, as (sum, weight) in float32; only the student gets gradients."""

import jax
import jax.numpy as jnp


def divergence(teacher: jax.Array, student: jax.Array, weights: jax.Array, *, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of KL(teacher || student), nats, of logits [..., C] divided by the temperature, and of the weights [...]."""
    scaled = [x.astype(jnp.float32) / temperature for x in (jax.lax.stop_gradient(teacher), student)]
    log_p, log_q = (jax.nn.log_softmax(x, axis=-1) for x in scaled)
    return _sum(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1), weights)


def distance(student: jax.Array, teacher: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of the mean squared difference of values [B, T, D], and of weights [B, T]."""
    square_BT = jnp.mean(jnp.square(student.astype(jnp.float32) - jax.lax.stop_gradient(teacher).astype(jnp.float32)), axis=-1)
    return _sum(square_BT, weights)


def _sum(values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    # where, not only a product: a place without weight must not bring in a NaN
    return jnp.sum(jnp.where(weights == 0, 0.0, values * weights)), jnp.sum(weights)
