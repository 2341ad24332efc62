"""Rename tables: where each tensor of a Hugging Face model lies in the lab's parameters, read in both directions.

A table is data: {their module: (our module, kind)}, `{i}` in both for each layer. A kind says what a module's parameters are called on both
sides and how one array becomes the other. What our model lacks (a bias, say) is not expected. `{e}` in their name alone: one array of
ours is many of theirs, one for each entry of its first axis, such as the experts of a mixture.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.interop import layout
from decoder_lab.interop.safetensors import Lazy

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class How:
    """How one of their arrays becomes ours.

    Attributes:
      shape: our arrays' shapes -> theirs.
      load: (their array, the number of ours that is wanted, all our shapes) -> that one of ours.
      save: our arrays -> theirs.
    """

    shape: Callable[[list[Shape]], Shape]
    load: Callable[[np.ndarray, int, list[Shape]], np.ndarray]
    save: Callable[[list[np.ndarray]], np.ndarray]


def _columns(array: np.ndarray, number: int, shapes: list[Shape]) -> np.ndarray:
    begin = sum(shape[-1] for shape in shapes[:number])
    return array[..., begin : begin + shapes[number][-1]]


def rows_from(first: int) -> How:
    """Theirs has `first` more rows at the beginning, which no real token uses; they are written as zeros."""
    return How(
        lambda shapes: (shapes[0][0] + first, *shapes[0][1:]),
        lambda array, number, shapes: array[first:],
        lambda arrays: np.concatenate([np.zeros((first, *arrays[0].shape[1:]), arrays[0].dtype), arrays[0]]),
    )


SAME = How(lambda shapes: shapes[0], lambda array, number, shapes: array, lambda arrays: arrays[0])
TRANSPOSED = How(lambda shapes: shapes[0][::-1], lambda array, number, shapes: array.T, lambda arrays: arrays[0].T)
SIDE_BY_SIDE = How(  # several of ours in one of theirs, along the last axis
    lambda shapes: (*shapes[0][:-1], sum(shape[-1] for shape in shapes)), _columns, lambda arrays: np.concatenate(arrays, axis=-1)
)
AS_ROW = How(lambda shapes: (1, *shapes[0]), lambda array, number, shapes: array[0], lambda arrays: arrays[0][None])

# kind -> {their parameter: (ours, how)}
LINEAR = {"weight": ("kernel", TRANSPOSED), "bias": ("bias", SAME)}
CONV1D = {"weight": ("kernel", SAME), "bias": ("bias", SAME)}  # GPT-2's linear layer, [in, out] as ours
FUSED_CONV1D = {"weight": ("kernel", SIDE_BY_SIDE), "bias": ("bias", SIDE_BY_SIDE)}
NORM = {"weight": ("scale", SAME), "bias": ("bias", SAME)}
EMBEDDING = {"weight": ("embedding", SAME)}
POSITIONS_FROM_2 = {"weight": ("embedding", rows_from(2))}  # RoBERTa and BART count positions from 2
ARRAY = {"": ("", SAME)}
TABLE = {"weight": ("", SAME)}  # an embedding on their side, a bare array on ours
ROW = {"": ("", AS_ROW)}


@dataclasses.dataclass(frozen=True)
class Table:
    """Everything that a file of one architecture may hold.

    Attributes:
      modules: {their module: (our module or modules, kind)}.
      copies: {their tensor: their tensor that it repeats}: tied weights, which a file has once or twice, but then equal.
      zeros: {their tensor: their tensor whose last axis gives its length}: all zeros where it is there at all, written as a row of zeros.
      ignored: regexes of buffers that hold nothing learned.
      left_out: regexes of learned tensors that our model has no place for; they are named to the user.
      prefix: what begins names in some files and is missing in others.
      bare: whether names are written without it.
      aliases: {regex: replacement} of older names.
    """

    modules: Mapping[str, tuple[str | tuple[str, ...], Mapping[str, tuple[str, How]]]]
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    zeros: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    prefix: str = ""
    bare: bool = False
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where one of their tensors lies: our paths, and how it becomes them; with `entry` it is that entry of their first axis."""

    ours: tuple[str, ...]
    how: How
    entry: int | None = None

    def our_shapes(self, shapes: Mapping[str, Shape]) -> list[Shape]:
        """Returns the shapes of what it becomes."""
        return [shapes[path] if self.entry is None else shapes[path][1:] for path in self.ours]

    def their_shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Returns the shape that their tensor must have."""
        return self.how.shape(self.our_shapes(shapes))


def rules(table: Table, shapes: Mapping[str, Shape]) -> dict[str, Rule]:
    """Returns {their tensor: rule} for a model whose parameters have these paths and shapes (layers unrolled).

    Errors: ValueError where a parameter of ours has no place in the table: the table, not the user, is wrong then.
    """
    found: dict[str, Rule] = {}
    for theirs, (ours, kind) in table.modules.items():
        ours = (ours,) if isinstance(ours, str) else ours
        for i in _layers(ours[0], shapes):
            for their_name, (our_name, how) in kind.items():
                paths = tuple("/".join(filter(None, (module.replace("{i}", str(i)), our_name))) for module in ours)
                if all(path in shapes for path in paths):
                    name = ".".join(filter(None, (theirs.replace("{i}", str(i)), their_name)))
                    for entry in range(shapes[paths[0]][0]) if "{e}" in name else (None,):
                        found[name.replace("{e}", str(entry))] = Rule(paths, how, entry)
    placed = [(path, rule.entry) for rule in found.values() for path in rule.ours]
    if lost := set(shapes) - {path for path, _ in placed}:
        raise ValueError(f"the table has no place for {sorted(lost)}")
    if len(placed) != len(set(placed)):
        raise ValueError("the table has two places for one parameter")
    return found


def _layers(module: str, shapes: Iterable[str]) -> Iterable[int]:
    before, layered, _ = module.partition("{i}")
    if not layered:
        return (0,)
    return sorted({int(m[1]) for path in shapes if (m := re.match(re.escape(before) + r"(\d+)/", path))})


def load(table: Table, tensors: Mapping[str, Lazy], shapes: Mapping[str, Shape], where: str) -> tuple[dict[str, Lazy], list[str]]:
    """Returns ({our path: array}, names of learned tensors that were left out); nothing is read but what is compared.

    Errors: one UserError, listing both sides, for tensors that are missing, not known or of another shape, and for a tied weight that is
    there twice with different values.
    """
    wanted = rules(table, shapes)
    known = {**wanted, **table.copies, **table.zeros}
    named = {_their_name(name, table, known): array for name, array in tensors.items()}
    missing = [name for name in wanted if name not in named]
    left_out = [name for name in named if name not in known and _any(table.left_out, name)]
    unknown = [name for name in named if name not in known and name not in left_out and not _any(table.ignored, name)]
    problems = [f"missing: {name} {list(rule.their_shape(shapes))}" for name, rule in wanted.items() if name in missing]
    for name, rule in wanted.items():
        if name in named and named[name].shape != rule.their_shape(shapes):
            problems.append(f"{name} has shape {list(named[name].shape)}, this model needs {list(rule.their_shape(shapes))}")
    problems += [f"not known: {name} {list(named[name].shape)}" for name in unknown]
    problems += [
        f"{name} should be the same as {of} (they are tied), and is another array"
        for name, of in table.copies.items()
        if name in named and of in named and not _equal(named[name], named[of])
    ]
    problems += [f"{name} is not all zeros, which this model has no place for" for name in table.zeros if np.any(named.get(name, 0))]
    if problems:
        model = tree.grouped(wanted)
        listing = "\n".join(f"  {problem}" for problem in _shortened(problems))
        raise UserError(f"{where}:\n{listing}\nthe model's config.json asks for:\n{model}\nthe files hold:\n{tree.grouped(tensors)}")
    found, entries = {}, {}
    for name, rule in wanted.items():
        of_rule = rule.our_shapes(shapes)
        for number, path in enumerate(rule.ours):
            array = Lazy(of_rule[number], named[name].dtype, _reader(named[name], rule.how, number, of_rule))
            if rule.entry is None:
                found[path] = array
            else:
                entries.setdefault(path, []).append(array)
    return found | {path: layout.stack(arrays) for path, arrays in entries.items()}, left_out


def _reader(array: Lazy, how: How, number: int, shapes: list[Shape]) -> Callable[[], np.ndarray]:
    return lambda: how.load(array.read(), number, shapes)


def save(table: Table, params: Mapping[str, Any]) -> dict[str, Lazy]:
    """Returns {their tensor: array} of our parameters by path (layers unrolled); tied weights stand once."""
    shapes = {path: tuple(array.shape) for path, array in params.items()}
    found = {}
    for name, rule in rules(table, shapes).items():
        arrays = [params[path] for path in rule.ours]
        found[name] = Lazy(rule.their_shape(shapes), np.dtype(arrays[0].dtype), _joiner(rule, arrays))
    for name, like in table.zeros.items():
        shape, dtype = (1, found[like].shape[0]), found[like].dtype
        found[name] = Lazy(shape, dtype, lambda shape=shape, dtype=dtype: np.zeros(shape, dtype))
    return {name.removeprefix(table.prefix): array for name, array in found.items()} if table.bare else found


def _joiner(rule: Rule, arrays: list[Any]) -> Callable[[], np.ndarray]:
    return lambda: rule.how.save([np.asarray(array) if rule.entry is None else np.asarray(array)[rule.entry] for array in arrays])


def _their_name(name: str, table: Table, known: Mapping[str, Any]) -> str:
    """Returns the name by which the table knows a tensor of a file."""
    for pattern, replacement in table.aliases.items():
        name = re.sub(pattern, replacement, name)
    if name in known or name.startswith(table.prefix):
        return name
    longer = table.prefix + name
    return longer if longer in known or _any(table.ignored + table.left_out, longer) else name


def _equal(one: Lazy, other: Lazy) -> bool:
    return one.shape == other.shape and bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _shortened(problems: list[str]) -> list[str]:
    most = tree.MOST_NAMES_SHOWN
    return problems if len(problems) <= most else [*problems[:most], f"... and {len(problems) - most} more"]
