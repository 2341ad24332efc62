"""Where what a model computes lies on the mesh: constraints put around its layers from outside, which know nothing of them.

XLA derives the rest from these and from where parameters and batches lie. Without them it sometimes moves activations, which are larger,
to where a piece of a parameter is.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import NamedSharding, PartitionSpec

from decoder_lab.core.axes import ROWS, TIME
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.linear import Linear, affine
from decoder_lab.layers.mixture_of_experts import MixtureOfExperts
from decoder_lab.layers.mlp import ACTIVATIONS
from decoder_lab.layers.norm import Norm
from decoder_lab.parallel import experts, tables
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel.layout import Layout

FREE = PartitionSpec.UNCONSTRAINED
LOGITS = "unembed"  # the method of decoders that gives logits; what runs inside may be a part of the batch (ops/cross_entropy.py)


def laid_out(function: Callable, layout: Layout) -> Callable:
    """Returns a function that traces `function` with the constraints of a layout."""
    if layout.mesh.size == 1:
        return function

    @functools.wraps(function)
    def constrained(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(_Constraints(layout)):
            return function(*args, **kwargs)

    return constrained


class _Constraints:
    """Two Linen interceptors: [B, T, ...] of linear maps, norms and embeddings lies with its rows and its time where those of a batch do.

    The instance itself stands around all others, those of adapters too (`adapters.base.Adapted`), and says where what they give lies.
    `_instead` stands inside them: it computes in place of a layer only what the layer would, of what an adapter gives it.
    """

    def __init__(self, layout: Layout):
        self._layout, self._in_logits, self._inside = layout, False, False

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module, method = context.module, context.method_name
        if not self._inside:  # a model's first call: who comes last is innermost in all calls inside this one
            self._inside = True
            try:
                with nn.intercept_methods(self._instead):
                    return self(call, args, kwargs, context)
            finally:
                self._inside = False
        if method == LOGITS:
            before, self._in_logits = self._in_logits, True
            try:
                return call(*args, **kwargs)
            finally:
                self._in_logits = before
        out = call(*args, **kwargs)
        if module.is_initializing() or not isinstance(module, Linear | Embedding | Norm) or method not in ("__call__", "attend"):
            return out
        return self._put(out, self._last(module, method))

    def _instead(self, call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module, method = context.module, context.method_name
        if isinstance(module, Embedding) and method == "__call__" and (looked_up := self._look_up(module, *args)) is not None:
            return looked_up
        if isinstance(module, MixtureOfExperts) and method == "mix":
            named = dict(activation=ACTIVATIONS[module.kind], layout=self._layout, path="/".join(module.path))
            found = experts.mix(*args, **named)
            return call(*args, **kwargs) if found is None else found
        if isinstance(module, Linear) and self._in_logits and not module.is_initializing() and (last := self._last(module, method)):
            return _constrained(self._logits(module, last, *args), self._layout.mesh, (*[FREE] * (args[0].ndim - 1), last))
        return call(*args, **kwargs)

    def _look_up(self, module: Embedding, indices: jax.Array) -> jax.Array | None:
        """Returns the vectors of indices_BT out of a table in pieces; None where it is whole, or in pieces of another kind."""
        layout = self._layout
        rows, width = layout.axes_of("/".join([*module.path, "embedding"]), module.embedding.shape)
        fits = indices.ndim == 2 and indices.shape[0] % meshes.num_shares(layout.mesh) == 0
        if module.is_initializing() or not fits or not (rows or width) or width not in ((), ("fsdp",)):
            return None
        return tables.look_up(module.embedding, indices, layout.mesh, rows, width).astype(module.dtype)

    def _logits(self, module: Linear, last: tuple[str, ...], x: jax.Array) -> jax.Array:
        """Returns what a linear map gives by a kernel in pieces of its outputs, even where they are not of one size: never all logits."""
        kernel, bias = (module.get_variable("params", name) if module.has_variable("params", name) else None for name in ("kernel", "bias"))
        kernel = _constrained(kernel, self._layout.mesh, (None, last))
        return affine(x.astype(module.dtype), kernel, bias, module.out_dtype or module.dtype)

    def _last(self, module: nn.Module, method: str) -> tuple[str, ...]:
        """Returns the mesh axes of the last axis of what a module gives."""
        path = "/".join(module.path)
        if isinstance(module, Linear):
            return self._layout.last_axes(f"{path}/kernel")
        return self._layout.last_axes(f"{path}/embedding") if method == "attend" else ()

    def _put(self, x: jax.Array, last: tuple[str, ...]) -> jax.Array:
        mesh = self._layout.mesh
        if self._in_logits:
            return _constrained(x, mesh, (*[FREE] * (x.ndim - 1), last or FREE))
        if x.ndim not in (2, 3) or x.shape[0] % meshes.num_shares(mesh):
            return x
        time = (TIME if x.shape[1] % mesh.shape[TIME] == 0 else FREE,) if x.ndim == 3 else ()
        return _constrained(x, mesh, (ROWS, *time, last or None))


def _constrained(x: jax.Array, mesh: jax.sharding.Mesh, spec: tuple) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))
