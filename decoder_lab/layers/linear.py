"""The affine map on the last axis."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.initialization import normal


class Linear(nn.Module):
    """x @ kernel + bias: kernel [in, out], bias [out], both float32; computed in `dtype`, the result in `out_dtype` if given."""

    features: int
    use_bias: bool = True
    stddev: float = 0.02
    dtype: jnp.dtype = jnp.float32
    out_dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", normal(self.stddev), (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        multiply = product if self.out_dtype else _PRODUCT.get() or product  # what has a dtype of its own, such as logits, stays exact
        return affine(x.astype(self.dtype), kernel, bias, self.out_dtype or self.dtype, multiply)


_PRODUCT: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("product", default=None)


@contextlib.contextmanager
def multiplying(multiply: Callable[..., jax.Array]) -> Iterator[None]:
    """Inside, layers traced use `multiply(x, kernel, out_dtype)` instead of `product`."""
    token = _PRODUCT.set(multiply)
    try:
        yield
    finally:
        _PRODUCT.reset(token)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, out_dtype, multiply: Callable | None = None) -> jax.Array:
    """Returns x @ kernel + bias, computed in the dtype of x; `multiply` instead of `product` where it is given."""
    y = (multiply or product)(x, kernel, out_dtype)
    return y if bias is None else y + bias.astype(y.dtype)[(None,) * (y.ndim - 1)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, out_dtype) -> jax.Array:
    """Returns x @ kernel, computed in the dtype of x.

    It has its own derivative (reverse mode only), because XLA on a CPU then copies far less: a training step takes a fifth less time.
    """
    return _multiplied(x, kernel, out_dtype)


def _multiplied(x, kernel, out_dtype):
    return jax.lax.dot_general(x, kernel.astype(x.dtype), (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=out_dtype)


def _product_forward(x, kernel, out_dtype):
    # not by `product`: a policy of recomputation that keeps the results of matrices has to see one
    return _multiplied(x, kernel, out_dtype), (x, kernel)


def _product_backward(out_dtype, saved, g):
    x, kernel = saved
    g = g.astype(x.dtype)
    x_gradient = jax.lax.dot_general(g, kernel.astype(x.dtype), (((g.ndim - 1,), (1,)), ((), ())))
    rows = (tuple(range(x.ndim - 1)),) * 2
    # one factor has to be transposed in memory: the narrower one
    if kernel.shape[0] <= kernel.shape[1]:
        kernel_gradient = jax.lax.dot_general(x, g, (rows, ((), ())), preferred_element_type=kernel.dtype)
    else:
        kernel_gradient = jax.lax.dot_general(g, x, (rows, ((), ())), preferred_element_type=kernel.dtype).T
    return x_gradient, kernel_gradient


product.defvjp(_product_forward, _product_backward)
