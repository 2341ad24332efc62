"""How parameters, and what belongs to them, lie on a mesh: path -> rule -> logical axes -> mesh axes (`parallel/rules.py` has the rules).

Parameters with an axis "fsdp" are in pieces everywhere but where they are used (ZeRO-3, Rajbhandari et al. 2020): XLA gathers those of a
layer when it comes to it, inside the loop where layers are scanned. With `zero1` the optimiser's moments and the average are in pieces over
"data" too, though the parameters are not.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from decoder_lab.core import tree
from decoder_lab.core.axes import AXES, ROWS
from decoder_lab.core.errors import UserError, nearest
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel.rules import ANYTHING, IN_TIME, LAYERS, LOGICAL, MAY_STAY_WHOLE, QUANTISED, RULES

SMALL = 4096  # numbers: an array of fewer stays whole where no dimension can be divided over fsdp

Names = tuple[str, ...]
Axes = tuple[Names, ...]  # for each dimension the mesh axes that it is split over


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of one run.

    Attributes:
      mesh: has any of the axes of `core/axes.py`.
      rules: (pattern, names), the first that is found in a path counts.
      logical: logical axis -> mesh axes, separated by blanks; "" is whole.
      zero1: whether what belongs to parameters is in pieces over "data".
    """

    mesh: Mesh
    rules: tuple[tuple[str, str], ...] = RULES
    logical: Mapping[str, str] = dataclasses.field(default_factory=lambda: LOGICAL)
    zero1: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every device holds everything but its own rows."""
        return meshes.num_shares(self.mesh) == self.mesh.size == self.mesh.shape["data"] and not self.zero1

    def of_params(self, shapes: Any) -> Any:
        """Returns a tree of shardings for a tree of parameters or their shapes. Errors: UserError that lists every problem."""
        return self._shardings(shapes, self.axes(shapes))

    def axes(self, shapes: Any) -> dict[str, Axes]:
        """Returns {path: mesh axes of every dimension}. Errors: UserError listing every one that has no rule or cannot be split."""
        problems: dict[str, str] = {}
        found = {path: self._axes_of(path, leaf.shape, problems) for path, leaf in tree.flatten(shapes).items()}
        if problems:
            raise UserError("\n".join([f"mesh ({meshes.describe(self.mesh)}): these parameters cannot be laid out:", *problems.values()]))
        return found

    def axes_of(self, path: str, shape: Sequence[int]) -> Axes:
        """Returns the mesh axes of every dimension of one parameter."""
        return self._axes_of(path, shape, {})

    def beside(self, shapes: Any, params: Any) -> Any:
        """Returns shardings of what belongs to `params`, such as moments: an array whose path ends as a parameter's, of its shape, lies as
        that does (and over "data" with zero1); everything else lies whole."""
        own, sizes = self.axes(params), {path: leaf.shape for path, leaf in tree.flatten(params).items()}

        def axes_of(path: str, leaf: Any) -> Axes:
            origin = next((end for end in _ends(path) if sizes.get(end) == leaf.shape), None)
            axes = own[origin] if origin else ((),) * len(leaf.shape)
            return self._spread(axes, leaf.shape) if origin and self.zero1 else axes

        return self._shardings(shapes, {path: axes_of(path, leaf) for path, leaf in tree.flatten(shapes).items()})

    def of_state(self, state: Any) -> Any:
        """Returns shardings for a `training.step.TrainState` of arrays or shapes."""
        params, whole = state.params, meshes.replicated(self.mesh)
        parts = {"params": self.of_params(params), "frozen": self.of_params(state.frozen)}
        parts |= {name: self.beside(getattr(state, name), params) for name in ("opt_state", "ema", "adapter")}
        return state.replace(**parts, step=whole, key=whole, skipped=whole, halted=whole)

    def names_of(self, path: str) -> tuple[str, Names] | None:
        """Returns the (pattern, logical axes) of the rule for a path; None where there is none."""
        path = re.sub(QUANTISED, "", path)
        return next(((pattern, names) for pattern, compiled, names in self._compiled if compiled.search(path)), None)

    def last_axes(self, path: str) -> Names:
        """Returns the mesh axes of what a kernel or table at a path gives, its last axis or its rows; those of rows of a batch left out."""
        rule = self.names_of(path)
        if rule is None or not rule[1] or rule[1] == (ANYTHING,):
            return ()
        return tuple(axis for axis in self._mesh_axes(rule[1][0 if path.endswith("embedding") else -1]) if axis not in ROWS)

    def in_time(self, shapes: Any) -> list[str]:
        """Returns the paths of the parameters that are read once a time step."""
        rules = {path: self.names_of(path) for path in tree.flatten(shapes)}
        return [path for path, rule in rules.items() if rule and IN_TIME in rule[1]]

    @functools.cached_property
    def _compiled(self) -> list[tuple[str, re.Pattern, Names]]:
        return [(pattern, re.compile(pattern), tuple(names.split())) for pattern, names in self.rules]

    @functools.cached_property
    def _splits(self) -> bool:
        """Whether parameters are in pieces on this mesh at all."""
        return any(self._mesh_axes(name) for name in self.logical)

    def _mesh_axes(self, name: str) -> Names:
        return tuple(axis for axis in self.logical[name].split() if self.mesh.shape.get(axis, 1) > 1)

    def _size(self, axes: Names) -> int:
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def _axes_of(self, path: str, shape: Sequence[int], problems: dict[str, str]) -> Axes:
        if not self._splits:  # no rule is needed
            return ((),) * len(shape)
        rule = self.names_of(path)
        key, shown = re.sub(r"\d+", "#", path), f"  {path} {list(shape)}: "
        if rule is None:
            known = ", ".join(self.logical)
            problems.setdefault(
                key, f'{shown}no rule is for it. Say in mesh.rules what its dimensions are ({known}), or "*": all is whole.'
            )
            return ()
        pattern, names = rule
        if names == (ANYTHING,):
            return ((),) * len(shape)
        names = (LAYERS, *names) if len(shape) == len(names) + 1 else names
        if len(names) != len(shape):
            problems.setdefault(key, f'{shown}the rule "{pattern}" is for {len(names)} dimensions ({" ".join(names)}).')
            return ()
        axes: list[Names] = [()] * len(shape)
        for i, name in enumerate(names):
            for axis in self._mesh_axes(name):
                self._put(axes, i, axis, shape, names, problems, (key, f'{shown}the rule "{pattern}" says {" ".join(names)}; '))
        return tuple(axes)

    def _put(self, axes: list[Names], i: int, axis: str, shape, names: Names, problems: dict[str, str], said: tuple[str, str]) -> None:
        """Splits dimension i over a mesh axis; where it cannot be divided, another one over fsdp, or none where that is harmless."""

        def can(j: int) -> bool:
            return shape[j] % self._size((*axes[j], axis)) == 0

        if axis in sum(axes, ()):  # an array has an axis once: the first dimension that names it
            return
        if can(i):
            axes[i] = (*axes[i], axis)
            return
        others = [j for j in range(len(shape)) if axis == "fsdp" and names[j] != LAYERS and can(j)]
        if others:
            j = max(others, key=lambda j: shape[j] // self._size(axes[j]))
            axes[j] = (*axes[j], axis)
        elif not (names[i] in MAY_STAY_WHOLE or (axis == "fsdp" and _count(shape, names) < SMALL)):
            divisors = [n for n in range(1, self.mesh.size + 1) if shape[i] % n == 0 and self.mesh.size % n == 0]
            lacks = f"{axis}={self.mesh.shape[axis]} does not divide {shape[i]}{', nor another dimension' if axis == 'fsdp' else ''}"
            ways = f"mesh.{axis} can be one of {divisors}, or mesh.logical.{names[i]}='': whole on every device"
            problems.setdefault(said[0], f"{said[1]}{lacks}. {ways}.")

    def _spread(self, axes: Axes, shape: Sequence[int]) -> Axes:
        """Returns the axes with "data" put on the largest dimension that it divides."""
        size = self.mesh.shape["data"]
        left = [length // self._size(names) for length, names in zip(shape, axes, strict=True)]
        fits = [i for i, length in enumerate(left) if size > 1 and length % size == 0 and length]
        if not fits:
            return axes
        best = max(fits, key=lambda i: left[i])
        return tuple((*names, "data") if i == best else names for i, names in enumerate(axes))

    def _shardings(self, shapes: Any, axes: Mapping[str, Axes]) -> Any:
        return jax.tree.map(lambda path: NamedSharding(self.mesh, _spec(axes[path])), tree.paths(shapes))


def of_config(config: Any, mesh: Mesh) -> Layout:
    """Returns the layout that a complete config asks for. Errors: UserError for rules that cannot be."""
    chosen = config.mesh
    logical = {**LOGICAL, **{name: str(axes) for name, axes in chosen.logical.items()}}
    rules = (*((pattern, str(names)) for pattern, names in chosen.rules.items()), *RULES)
    for name, axes in logical.items():
        for axis in axes.split():
            if axis not in AXES:
                raise UserError(f'mesh.logical.{name}: "{axis}" is no axis of a mesh.{nearest(axis, AXES)} There are: {", ".join(AXES)}.')
    for pattern, names in rules:
        for name in names.split():
            if name not in (*logical, ANYTHING):
                raise UserError(f'mesh.rules: "{pattern}" names "{name}".{nearest(name, logical)} Known: {", ".join(logical)}, or "*".')
    return Layout(mesh, rules, logical, chosen.zero1)


def on_a_device(shapes: Any, shardings: Any) -> Any:
    """Returns the shapes of the pieces that one device holds."""

    def piece(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sharding.shard_shape(x.shape), x.dtype)

    return jax.tree.map(piece, shapes, shardings)


def _spec(axes: Axes) -> PartitionSpec:
    parts = [names[0] if len(names) == 1 else names or None for names in axes]
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def _count(shape: Sequence[int], names: Names) -> int:
    """Returns the numbers of an array, of one layer where layers are stacked."""
    return math.prod(size for size, name in zip(shape, names, strict=True) if name != LAYERS)


def _ends(path: str) -> Iterator[str]:
    """Yields the path, and what is left of it without its first part, first two, ..."""
    parts = path.split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))
