"""Products of linear maps in 8 bits while training, by qwix: int8 for TPUs and GPUs, float8 for GPUs from Hopper on.

Both factors are quantised as they come, with a scale for each row of the one and each column of the other (AQT, arXiv:2105.03536), in the
product itself and in the gradient of its inputs. The gradient of the kernel, a sum over all rows of a batch, stays in the dtype of the run.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.core.errors import UserError

FORMS = {"int8": (jnp.int8, jnp.int8), "float8": (jnp.float8_e4m3fn, jnp.float8_e5m2)}  # name -> (values, gradients, of larger range)


def qwix() -> Any:
    """Returns the library. Errors: UserError where it is not installed."""
    try:
        import qwix
    except ImportError as error:
        raise UserError('matmul needs qwix, which is not installed: pip install "decoder_lab[quant]".') from error
    return qwix


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: jax.Array, kernel: jax.Array, out_dtype: jnp.dtype, form: str) -> jax.Array:
    """Returns about x @ kernel: [..., in] by [in, out]. Reverse mode only."""
    return _multiplied(x, kernel, out_dtype, form)


def _multiplied(x, kernel, out_dtype, form):
    values, _ = FORMS[form]
    return _multiply(x, kernel.astype(x.dtype), values, values, 0).astype(out_dtype)


def _forward(x, kernel, out_dtype, form):
    return _multiplied(x, kernel, out_dtype, form), (x, kernel)


def _backward(out_dtype, form, saved, g):
    x, kernel = saved
    g = g.astype(x.dtype)
    values, gradients = FORMS[form]
    rows = (tuple(range(x.ndim - 1)),) * 2
    kernel_gradient = jax.lax.dot_general(x, g, (rows, ((), ())), preferred_element_type=kernel.dtype)
    return _multiply(g, kernel.astype(x.dtype), gradients, values, 1).astype(x.dtype), kernel_gradient


product.defvjp(_forward, _backward)


def _multiply(x: jax.Array, kernel: jax.Array, x_form: Any, kernel_form: Any, axis: int) -> jax.Array:
    """Returns x times a matrix, contracted with its axis, in float32."""
    x_form, kernel_form = jnp.dtype(x_form), jnp.dtype(kernel_form)
    left = qwix().quantize(x.astype(jnp.float32), x_form, channelwise_axes=range(x.ndim - 1))
    right = qwix().quantize(kernel.astype(jnp.float32), kernel_form, channelwise_axes=(1 - axis,))
    return qwix().dot_general(left, right, (((x.ndim - 1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
