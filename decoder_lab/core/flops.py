"""Counting the matrix products of a traced function: what a model's floating-point operations are taken for."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax


def products(fn: Callable, *arguments: Any) -> float:
    """Returns the FLOPs of the matrix products and convolutions in one call of `fn`, a multiplication and an addition being two.

    Arguments are pytrees of arrays or of their shapes. A scan counts as often as it runs, of branches the dearest, a while loop once.
    """
    return _count(jax.make_jaxpr(fn)(*arguments).jaxpr)


def with_weights(traced: Any) -> float:
    """Returns the FLOPs of the products without a batch axis in a traced program: those with weights, what is computed again included.

    Products between activations, such as those of attention, have one; how many of them a fused kernel computes cannot be seen.
    So has the gradient of the table of tokens where each device of a mesh computes a chunked loss: 2 V D FLOPs a token are left out.
    """
    return _count(traced.jaxpr, batched=False)


def _count(jaxpr: Any, batched: bool = True) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), (batch, _) = params["dimension_numbers"]
            if batch and not batched:
                continue
            left = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[params["dimension_numbers"].rhs_spec[0]]
        else:
            inner = [_count(part, batched) for part in _inside(params)]
            total += (max(inner, default=0.0) if name == "cond" else sum(inner)) * (params["length"] if name == "scan" else 1)
    return total


def _inside(params: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the programs that an equation calls."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part
