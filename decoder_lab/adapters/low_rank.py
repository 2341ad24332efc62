"""What LoRA and its relatives share: which kernels get a product of narrow matrices, and how it enters what they compute.

Where a kernel belongs to a `Linear`, the product is computed beside it, y = x W + (x A) B, so that no gradient of W is ever worked out.
Other kernels (of recurrent cells, of learned scores, embeddings) are read as arrays: W + A B is made once before the model is applied.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.adapters import base
from decoder_lab.adapters.places import Place
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.layers import linear
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import Linear
from decoder_lab.ops.dropout import dropout

ADAPTABLE = re.compile(r"(^|[/_])(kernel|embedding)$")  # leaves that are matrices [..., in, out]
LEFT_ALONE = re.compile(r"unembedding/|embedding$")  # by default: what looks up or scores tokens

Parts = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LowRank(base.Adapter):
    """Kernels W [..., in, out] that are changed by narrow matrices; leading axes are those of scanned layers, or heads.

    A method says which parts a kernel gets (`PARTS`, the first is the mark of an adapted one), how they begin, and what they make of it.

    Attributes:
      rank: width of the narrow matrices.
      targets: regexes on the paths of kernels. Empty: the queries and values of all attention; in a model without any, every kernel but
        embeddings and heads.
      dropout: of what enters the narrow matrices while training; of kernels that are read as arrays it has no effect.
    """

    rank: int = 8
    targets: tuple[str, ...] = ()
    dropout: float = 0.0

    PARTS: ClassVar[tuple[str, ...]] = ()

    def parts(self, kernel: jax.Array, key: jax.Array) -> Parts:
        """Returns the initial parts of a kernel."""
        raise NotImplementedError

    def changed(self, kernel: jax.Array, parts: Parts) -> jax.Array:
        """Returns the kernel to compute with."""
        raise NotImplementedError

    def output(self, module: Linear, x: jax.Array, y: jax.Array, parts: Parts) -> jax.Array:
        """Returns what a Linear returns with its kernel changed; x: what it was given, with dropout; y: what it returns by itself."""
        raise NotImplementedError

    def original(self, merged: jax.Array, kernel: jax.Array, parts: Parts) -> jax.Array:
        """Returns the kernel again from the merged one; `kernel` is that of the tree that `unmerge` is given."""
        del kernel
        return merged - (self.changed(jnp.zeros_like(merged), parts))

    def added(self, places: dict[str, Place], params: Any, key: jax.Array) -> dict[str, jax.Array]:
        kernels = {path: leaf for path, leaf in tree.flatten(params).items() if ADAPTABLE.search(path) and leaf.ndim >= 2}
        leaves = {}
        for path in self._chosen(list(kernels), places, params):
            kernel = kernels[path]
            if self.rank > min(kernel.shape[-2:]):
                raise UserError(
                    f"adapt: {self.name} of rank {self.rank} is no smaller than {path}, {kernel.shape[-2]} x {kernel.shape[-1]}."
                )
            module, _, leaf = path.rpartition("/")
            linear = leaf == "kernel" and module in places and places[module].kind == "linear"
            prefix = f"{module}/" if linear else f"{path}_"
            leaves |= {prefix + name: part for name, part in self.parts(kernel, base.key_of(key, path)).items()}
        return leaves

    def _chosen(self, paths: list[str], places: dict[str, Place], params: Any) -> list[str]:
        if self.targets:
            return base.matching(paths, self.targets, "adapt.kw.targets")
        attention = [place for place in places.values() if place.kind in ("attention", "cross_attention")]
        wanted = {place.leaf(f"{name}/kernel") for place in attention for name in ("query", "value")}
        heads = {path for path, hit in tree.flatten(tree.mask(params, [base.HEADS])).items() if hit}
        return [p for p in paths if p in wanted] or [p for p in paths if p not in heads and not LEFT_ALONE.search(p)]

    def sites(self, params: Any) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields (path of the kernel, {part: its path}) of every adapted kernel."""
        mark = self.PARTS[0]
        for path in tree.flatten(params):
            if path == mark or path.endswith((f"/{mark}", f"_{mark}")):
                prefix = path.removesuffix(mark)
                kernel = prefix[:-1] if prefix.endswith("_") else f"{prefix}kernel"
                yield kernel, {name: prefix + name for name in self.PARTS}

    def _with(self, params: Any, arrays_only: bool) -> dict:
        """Returns the tree with changed kernels: all, or those that are read as arrays only."""
        flat = tree.flatten(params)
        new = {}
        for path, names in self.sites(params):
            if not (arrays_only and f"{path.rpartition('/')[0]}/{self.PARTS[0]}".lstrip("/") in names.values()):
                new[path] = self.changed(flat[path], {name: flat[at] for name, at in names.items()})
        return base.insert(params, new) if new else params

    def effective(self, params: Any) -> Any:
        return self._with(params, arrays_only=True)

    def around(self, module: nn.Module, call: Any, args: tuple, kwargs: dict) -> Any:
        y = call(*args, **kwargs)
        if not isinstance(module, Linear) or not module.has_variable("params", self.PARTS[0]):
            return y
        parts, x = {name: module.get_variable("params", name) for name in self.PARTS}, args[0]
        if self.dropout and module.has_rng("dropout"):
            x = dropout(x, module.make_rng("dropout"), self.dropout)
        return self.output(module, x.astype(module.dtype), y, parts)

    def merge(self, params: Any) -> Any:
        return base.remove(self._with(params, arrays_only=False), self._added_paths(params))

    def folded(self, params: Any) -> Any:
        return self.merge(params)

    def unmerge(self, merged: Any, params: Any) -> Any:
        flat, plain = tree.flatten(params), tree.flatten(merged)
        new = {}
        for path, names in self.sites(params):
            new[path] = self.original(plain[path], flat[path], {name: flat[at] for name, at in names.items()})
        return base.insert(params, new)

    def _added_paths(self, params: Any) -> set[str]:
        return {at for _, names in self.sites(params) for at in names.values()}


def narrow(stddev: float, key: jax.Array, kernel: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns a normally distributed part of a kernel, with the kernel's leading axes before `shape`."""
    return normal(stddev)(key, (*kernel.shape[:-2], *shape), jnp.float32)


def product(x: jax.Array, part: jax.Array) -> jax.Array:
    """Returns x @ part in the dtype of x. Its derivative transposes the narrower factor: XLA on CPUs would work out the wider one twice."""
    return linear.product(x, part, x.dtype)
