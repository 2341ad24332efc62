"""Frozen kernels in 8 or 4 bits (QLoRA, Dettmers et al. 2023), by qwix, which is imported only where this is asked for.

`.../kernel` of a `Linear` becomes `.../kernel_int8` (or `kernel_nf4`) and `.../kernel_scale`. It is made floating point in the call that
uses it, and again in that call's backward pass, so it is never held.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.adapters import base
from decoder_lab.adapters.places import Place, of_kind
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.layers.linear import Linear, product

TYPES = ("int8", "nf4")
BLOCK = 64  # inputs that share a scale in nf4


def _qwix() -> Any:
    try:
        import qwix
    except ImportError as error:
        raise UserError('adapt.kw.quantize needs qwix, which is not installed: pip install "decoder_lab[quant]".') from error
    return qwix


def store(frozen: Any, places: dict[str, Place], kind: str) -> dict:
    """Returns the frozen parameters with the kernels of Linear layers quantised. Errors: UserError where there are none."""
    flat, new, old = tree.flatten(frozen), {}, set()
    for place in of_kind(places.values(), "linear"):
        path = place.leaf("kernel")
        if path in flat and flat[path].ndim >= 2:
            new |= {f"{path}_{name}": array for name, array in _quantised(flat[path], kind).items()}
            old.add(path)
    if not old:
        raise UserError(
            f'adapt.kw.quantize="{kind}": this model has no frozen kernel of a Linear layer; cells of recurrent layers stay as they are.'
        )
    return base.insert(base.remove(frozen, old), new)


def restored(params: Any) -> Any:
    """Returns the tree with every quantised kernel as floating point, under its own name."""
    flat, new, old = tree.flatten(params), {}, set()
    for path in flat:
        for kind in TYPES:
            if path.endswith(f"kernel_{kind}"):
                kernel = path.removesuffix(f"_{kind}")
                new[kernel] = _floating(flat[path], flat[f"{kernel}_scale"], kind)
                old |= {path, f"{kernel}_scale"}
    return base.insert(base.remove(params, old), new) if new else params


def instead(module: nn.Module, call: Callable) -> Callable:
    """Returns what computes a Linear whose kernel is quantised; `call` for everything else."""
    if not isinstance(module, Linear):
        return call
    kind = next((kind for kind in TYPES if module.has_variable("params", f"kernel_{kind}")), None)
    if kind is None:
        return call
    values, scale = module.get_variable("params", f"kernel_{kind}"), module.get_variable("params", "kernel_scale")
    out_dtype = module.out_dtype or module.dtype

    @jax.checkpoint
    def multiplied(x, values, scale):
        return product(x, _floating(values, scale, kind), out_dtype)

    def linear(x: jax.Array) -> jax.Array:
        y = multiplied(x.astype(module.dtype), values, scale)
        if module.use_bias:
            y += module.get_variable("params", "bias").astype(y.dtype)[(None,) * (y.ndim - 1)]
        return y

    return linear


def _quantised(kernel: jax.Array, kind: str) -> dict[str, jax.Array]:
    """Returns {kind: codes of the kernel's shape, "scale"}: one scale for each output, in nf4 for each block of inputs too."""
    in_axis, in_dim = kernel.ndim - 2, kernel.shape[-2]
    axes = tuple(axis for axis in range(kernel.ndim) if axis != in_axis)
    block = next(size for size in range(min(BLOCK, in_dim), 0, -1) if in_dim % size == 0)
    found = _qwix().quantize(kernel, kind, channelwise_axes=axes, tiled_axes={in_axis: block} if kind == "nf4" else {})
    return {kind: found.qvalue, "scale": found.scale}


def _floating(values: jax.Array, scale: jax.Array, kind: str) -> jax.Array:
    qwix = _qwix()
    return qwix.dequantize(qwix.QArray(values, scale, None, kind if kind == "nf4" else jnp.int8))
