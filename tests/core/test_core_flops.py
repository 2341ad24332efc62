"""Matrix products counted in traced programs."""

import jax
import jax.numpy as jnp

from decoder_lab.core import flops


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_products_are_counted_wherever_they_stand():
    one = 2 * 3 * 4 * 5
    assert flops.products(jnp.dot, shape(3, 4), shape(4, 5)) == one
    assert flops.products(lambda a, b: jnp.einsum("BTH,BSH->BTS", a, b), shape(7, 3, 4), shape(7, 5, 4)) == 7 * one
    assert flops.products(jax.jit(lambda a, b: jax.checkpoint(jnp.dot)(jnp.sin(a), b)), shape(3, 4), shape(4, 5)) == one
    assert flops.products(lambda a, b: jax.lax.scan(lambda c, x: (c, x @ b), 0.0, a)[1], shape(6, 3, 4), shape(4, 5)) == 6 * one
    both = lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) @ (b.T @ b))  # noqa: E731
    assert flops.products(both, shape(3, 4), shape(4, 5)) == one + 2 * 5 * 4 * 5 + 2 * 3 * 5 * 5
    assert flops.products(lambda x, k: jnp.convolve(x, k, "valid"), shape(10), shape(3)) == 2 * 8 * 3
    f = jax.custom_vjp(jnp.dot)
    f.defvjp(lambda a, b: (a @ b, (a, b)), lambda saved, g: saved)
    assert flops.products(f, shape(3, 4), shape(4, 5)) == one


def test_products_with_weights_are_those_without_a_batch_axis_as_often_as_they_are_computed():
    """Backwards two more a weight, and one more where the result was not kept; products between activations have a batch axis."""

    def loss(w, x_BTD):
        y_BTD = jax.checkpoint(lambda w, x: jnp.sin(jnp.sin(x @ w) @ w))(w, x_BTD)
        return jnp.sum(jnp.einsum("BTD,BSD->BTS", y_BTD, y_BTD))

    one = 2 * (3 * 5) * 4 * 4
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(shape(4, 4), shape(3, 5, 4))
    assert flops.with_weights(traced.jaxpr) == (2 + 2 + 4) * one
