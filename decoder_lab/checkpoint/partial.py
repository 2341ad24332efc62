"""Starting from a part of another run's parameters, by path patterns. Nothing is left out or changed without being named."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from decoder_lab.core import tree
from decoder_lab.core.errors import UserError, nearest, unknown

RULES = ("include", "rename", "exclude", "first_rows", "extend", "stretch")
SPREAD = 0.01  # of old rows, around whose mean new ones lie


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every parameter: this run's `loaded` and `initial`, the source's `unused`.

    `cast` is {path: "old -> new"} of dtypes, `cut` {path: "its first 5 of 6 rows"}.
    """

    loaded: list[str]
    initial: list[str]
    unused: list[str]
    cast: dict[str, str]
    cut: dict[str, str]

    def __str__(self) -> str:
        parts = (("loaded", self.loaded), ("left at the initial value", self.initial), ("in the source, not used", self.unused))
        lines = [f"{what}: {len(paths)}\n{tree.grouped(paths)}".rstrip() for what, paths in parts]
        lines += [f"cast on loading: {path} {how}" for path, how in self.cast.items()]
        lines += [f"loaded in part: {path}, {how}" for path, how in self.cut.items()]
        return "\n".join(lines)


def init_from(params: Any, source_params: Any, rules: Mapping[str, Any]) -> tuple[Any, Report]:
    """Returns `params` with what the rules take from `source_params`, and the report of it, to be printed.

    Rules, all optional; patterns are regular expressions searched for anywhere in a path of the source:
      include: the paths to take; without it all.
      exclude: of those, the ones to leave.
      rename: {pattern: replacement}, applied in order by `re.sub` to what is taken.
      first_rows: the paths whose arrays may have more rows (axis 0) than here; those behind ours are left. So ids that a task added at the
        end of the vocabulary, such as a mask token, go.
      extend: the paths whose arrays may be shorter than here along one axis, as tables of a smaller vocabulary are. What is new lies close
        to the mean of what is old (Hewitt 2021: new tokens then take little probability from old ones).
      stretch: the paths of tables that may have fewer rows than here; ours are interpolated between them, as for learned positions of a
        longer context (Chen et al. 2023 do so with rotary ones).
    A taken path that this run lacks is reported as not used; if a rename made it, it is an error. Arrays get this run's dtype and sharding.

    Errors: UserError, listing both sides, for a pattern that matches nothing, a renamed path that this run lacks, two sources of one
    parameter, another shape, or nothing loaded at all.
    """
    if wrong := sorted(set(rules) - set(RULES)):
        raise UserError(unknown("init_from", wrong[0], RULES))
    wanted, source = tree.flatten(params), tree.flatten(source_params)
    include, exclude, *reshape = (tuple(rules.get(name, ())) for name in ("include", "exclude", "first_rows", "extend", "stretch"))
    rename = dict(rules.get("rename", {}))
    tree.check_patterns(source_params, [*include, *exclude, *(pattern for patterns in reshape for pattern in patterns)], "init_from")
    taken = [path for path in source if (not include or _any(include, path)) and not _any(exclude, path)]
    targets = _renamed(taken, rename)
    cut = _reshaped({path: target for path, target in targets.items() if target in wanted}, wanted, source, *reshape)
    _check(targets, wanted, source)

    origin = {target: path for path, target in targets.items() if target in wanted}
    loaded = {target: _onto(wanted[target], source[path]) for target, path in origin.items()}
    kinds = {target: (np.dtype(source[path].dtype), np.dtype(wanted[target].dtype)) for target, path in origin.items()}
    report = Report(
        loaded=sorted(origin),
        initial=sorted(set(wanted) - set(origin)),
        unused=sorted(set(source) - set(origin.values())),
        cast={target: f"{old} -> {new}" for target, (old, new) in sorted(kinds.items()) if old != new},
        cut=cut,
    )
    return jax.tree.map(lambda path, leaf: loaded.get(path, leaf), tree.paths(params), params), report


def _reshaped(targets: dict[str, str], wanted: dict, source: dict, first_rows: tuple, extend: tuple, stretch: tuple) -> dict[str, str]:
    """Brings arrays of the source to this run's shapes, in place, where a rule says how; returns {path: what was done}."""
    done = {}
    for path, target in targets.items():
        ours, theirs = wanted[target].shape, source[path].shape
        if len(ours) != len(theirs) or sum(a != b for a, b in zip(ours, theirs, strict=True)) != 1:
            continue
        axis = next(axis for axis, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        now, before = ours[axis], theirs[axis]
        if _any(first_rows, path) and axis == 0 and before > now:
            source[path], done[target] = source[path][:now], f"its first {now:,} of {before:,} rows"
        elif _any(stretch, path) and axis == 0 and before < now:
            source[path], done[target] = _stretched(np.asarray(source[path]), now), f"its {before:,} rows stretched to {now:,}"
        elif _any(extend, path) and before < now:
            source[path] = _extended(np.asarray(source[path]), axis, now)
            done[target] = f"all {before:,} of axis {axis}, and {now - before:,} new near their mean"
    return done


def _check(targets: dict[str, str], wanted: dict[str, Any], source: dict[str, Any]) -> None:
    """Raises all problems at once."""
    problems, origin, longer, positions = [], {}, {}, []
    for path, target in targets.items():
        if target not in wanted:
            if target != path:
                problems.append(f'"{path}" is renamed to "{target}", which this run lacks.{nearest(target, wanted)}')
            continue
        if target in origin:
            problems.append(f'"{origin[target]}" and "{path}" would both become "{target}"')
        origin[target] = path
        if source[path].shape != wanted[target].shape:
            ours, theirs = tuple(wanted[target].shape), tuple(source[path].shape)
            longer[path] = ours[1:] == theirs[1:] and ours[:1] < theirs[:1]
            problems.append(f'"{target}" has shape {ours} in this run, {theirs} in the source')
            positions += [path] if "position_embedding" in path and ours[1:] == theirs[1:] and ours[:1] > theirs[:1] else []
    if longer and all(longer.values()):
        problems.append(f"init_from.first_rows={', '.join(longer)} takes as many rows of the source as this run has")
    if positions:
        problems.append(f"init_from.stretch={', '.join(positions)} interpolates learned positions for a longer context")
    if not origin and not problems:
        problems.append("no path of the source is one of this run's; a rename may be missing")
    if problems:
        listing = "\n".join(f"  {p}" for p in problems)
        raise UserError(f"init_from:\n{listing}\nthis run has:\n{tree.grouped(wanted)}\nthe source has:\n{tree.grouped(source)}")


def _extended(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Returns the array with more entries along an axis: the mean of those that there are, plus a little of their spread."""
    rows = np.moveaxis(array, axis, 0)
    noise = np.random.default_rng(0).standard_normal((size - rows.shape[0], *rows.shape[1:]))
    new = rows.mean(axis=0)[None] + SPREAD * rows.std(axis=0)[None] * noise
    return np.moveaxis(np.concatenate([rows, new.astype(array.dtype)]), 0, axis)


def _stretched(rows: np.ndarray, size: int) -> np.ndarray:
    """Returns `size` rows: those that there are at equal distances from the first to the last, and between them what lies between."""
    place = np.linspace(0, len(rows) - 1, size)
    below = np.minimum(place.astype(int), max(len(rows) - 2, 0))
    share = (place - below).reshape(-1, *[1] * (rows.ndim - 1))
    above = np.minimum(below + 1, len(rows) - 1)
    return (rows[below] * (1 - share) + rows[above] * share).astype(rows.dtype)


def _any(patterns: Iterable[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def _renamed(taken: list[str], rename: Mapping[str, str]) -> dict[str, str]:
    """Returns {path of the source: path in this run}; each pattern sees what the ones before it made."""
    targets = {path: path for path in taken}
    for pattern, replacement in rename.items():
        try:
            if not any(re.search(pattern, target) for target in targets.values()):
                raise UserError(f'init_from.rename: "{pattern}" matches nothing of what is taken:\n{tree.grouped(targets.values())}')
            targets = {path: re.sub(pattern, replacement, target) for path, target in targets.items()}
        except re.error as error:
            raise UserError(f'init_from.rename: "{pattern}" -> "{replacement}" cannot be done: {error}.') from None
    return targets


def _onto(leaf: Any, value: Any) -> Any:
    return jax.device_put(np.asarray(value, leaf.dtype), leaf.sharding)
