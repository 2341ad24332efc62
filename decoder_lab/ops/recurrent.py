"""Recurrence over time: the LSTM and GRU cells, and a scan whose weights' gradients are one product over all time.

The derivative of `lax.scan` adds to every weight's gradient at every step: an outer product of few rows, and a pass over memory as large as
the weights. Here each product inside a scan has an addend of its own; the gradients of the addends are those of the products, so that those
of the weights are (inputs of all steps)^T (gradients of all steps). Small batches train two to three times as fast on a CPU for it.

Arrays are time-major here: T, B, features. A state is a tuple of float32 [B, W]: (h,) of a GRU, (c, h) of an LSTM.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

Kind = Literal["lstm", "gru"]
State = tuple[jax.Array, ...]
GATES = {"lstm": 4, "gru": 3}
NUM_STATES = {"lstm": 2, "gru": 1}


def lstm(gates_BG: jax.Array, state: State) -> State:
    """Returns the next (c, h) of an LSTM (Hochreiter & Schmidhuber 1997, with Gers et al. 2000); gates input, forget, cell, output.

    c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c').
    """
    i, f, g, o = jnp.split(gates_BG, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state[0] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


def gru(inputs_BG: jax.Array, recurrent_BG: jax.Array, state: State) -> State:
    """Returns the next (h,) of a GRU (Cho et al. 2014); gates reset, update, candidate.

    The reset gate acts after the recurrent product, as in cuDNN and PyTorch: n = tanh(x_n + r (U h + b)); h' = (1 - z) n + z h.
    """
    (h,), width = state, state[0].shape[-1]
    r, z = jnp.split(jax.nn.sigmoid(inputs_BG[:, : 2 * width] + recurrent_BG[:, : 2 * width]), 2, axis=-1)
    n = jnp.tanh(inputs_BG[:, 2 * width :] + r * recurrent_BG[:, 2 * width :])
    return ((1.0 - z) * n + z * h,)


def update(kind: Kind, inputs_BG: jax.Array | None, recurrent_BG: jax.Array, state: State) -> State:
    """Returns the next state; `inputs_BG` None: an LSTM's are in the recurrent part already."""
    if kind == "gru":
        return gru(inputs_BG, recurrent_BG, state)
    return lstm(recurrent_BG if inputs_BG is None else inputs_BG + recurrent_BG, state)


Dense = Callable[[str, jax.Array], jax.Array]
Step = Callable[[Dense, Any, Any, Any], tuple[Any, Any]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def scan(step: Step, dtype, reverse: bool, weights: dict, addends: dict, constants: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
    """Returns (carry, ys) of `step(dense, constants, carry, x) -> (carry, y)` over axis 0 of `xs` and of the addends; reverse-mode only.

    Args:
      step: closes over nothing that is traced. `dense(name, x_BI)` is float32 x @ weights[name] + addends[name][t], computed in `dtype`; it
        is called once for every weight.
      weights: name -> kernel [I, O].
      addends: name -> float32 [T, B, O], or nothing for a product on its own; at least one.
      constants, carry, xs: any pytrees; the carry is floating point.
    """

    def body(carry, x):
        addend, x = x
        return step(lambda name, h: _product(h, kernels[name], addend.get(name)), constants, carry, x)

    kernels = {name: kernel.astype(dtype) for name, kernel in weights.items()}
    return jax.lax.scan(body, carry, (addends, xs), reverse=reverse)


def _product(x_BI: jax.Array, kernel_IO: jax.Array, addend_BO: jax.Array | None) -> jax.Array:
    product_BO = jnp.dot(x_BI.astype(kernel_IO.dtype), kernel_IO, preferred_element_type=jnp.float32)
    return product_BO if addend_BO is None else product_BO + addend_BO


def _scan_forward(step: Step, dtype, reverse: bool, weights, addends, constants, carry, xs):
    kernels = {name: kernel.astype(dtype) for name, kernel in weights.items()}
    length, batch = next(iter(addends.values())).shape[:2]
    zeros = {name: jnp.zeros((length, batch, kernel.shape[1]), jnp.float32) for name, kernel in weights.items() if name not in addends}

    def all_steps(addends, zeros, constants, carry, xs):
        def body(carry, x):
            addend, x = x
            inputs = {}

            def dense(name, h_BI):
                inputs[name] = h_BI.astype(dtype)
                return _product(h_BI, kernels[name], addend[name])

            carry, y = step(dense, constants, carry, x)
            return carry, (y, inputs)

        carry, (ys, inputs) = jax.lax.scan(body, carry, ({**addends, **zeros}, xs), reverse=reverse)
        return (carry, ys), inputs

    out, pullback, inputs = jax.vjp(all_steps, addends, zeros, constants, carry, xs, has_aux=True)
    return out, (pullback, inputs)


def _scan_backward(step: Step, dtype, reverse: bool, saved, gradient):
    pullback, inputs = saved
    of_addends, of_zeros, of_constants, of_carry, of_xs = pullback(gradient)
    of_products = {**of_addends, **of_zeros}
    of_weights = {
        name: jnp.einsum("TBI,TBO->IO", x_TBI, of_products[name].astype(dtype), preferred_element_type=jnp.float32)
        for name, x_TBI in inputs.items()
    }
    return of_weights, of_addends, of_constants, of_carry, of_xs


scan.defvjp(_scan_forward, _scan_backward)
