"""Parameter trees by path. A path is the keys from the root to a leaf joined by "/": "layer_0/attention/query/kernel".

Patterns are regular expressions searched for anywhere in the path: "bias$", "^embed", "attention/(query|value)/kernel".
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.core.errors import UserError

MOST_NAMES_SHOWN = 40


def flatten(tree: Any) -> dict[str, Any]:
    """Returns {path: leaf} in the tree's own order; works for dicts, sequences and dataclasses such as optimiser states."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_path(keys): leaf for keys, leaf in leaves}


def paths(tree: Any) -> Any:
    """Returns a tree of the same structure that holds each leaf's path."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: _path(keys), tree)


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dicts from {"a/b/c": leaf}. Indices of sequences become names: "0", "1", ..."""
    root: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return root


def split(tree: Any, chosen: Collection[str]) -> tuple[dict, dict]:
    """Returns (the leaves at the paths in `chosen`, the rest), each as nested dicts of its own leaves only."""
    flat = flatten(tree)
    inside = {path: leaf for path, leaf in flat.items() if path in chosen}
    return nest(inside), nest({path: leaf for path, leaf in flat.items() if path not in chosen})


def join(one: Mapping, other: Mapping | None) -> dict:
    """Returns nested dicts with the leaves of both, the inverse of `split`; what `other` has at a path wins. None has none."""
    joined = dict(one)
    for name, value in (other or {}).items():
        both = isinstance(value, Mapping) and isinstance(joined.get(name), Mapping)
        joined[name] = join(joined[name], value) if both else value
    return joined


def unshared(tree: Any) -> Any:
    """Returns the tree with a copy wherever a leaf is the same array as one before it, so that the whole may be donated."""
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        if id(leaf) in seen:
            return jnp.copy(leaf)
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(own, tree)


def mask(tree: Any, patterns: Iterable[str]) -> Any:
    """Returns a tree of bool: whether any of the patterns matches the leaf's path."""
    compiled = [re.compile(p) for p in patterns]
    return jax.tree.map(lambda path: any(p.search(path) for p in compiled), paths(tree))


def check_patterns(tree: Any, patterns: Iterable[str], what: str) -> None:
    """Errors: UserError for a pattern that is no regular expression, or that matches no path; `what` names the setting."""
    known, lost = list(flatten(tree)), []
    for pattern in patterns:
        try:
            matches = re.compile(pattern).search
        except re.error as error:
            raise UserError(f'{what}: "{pattern}" is not a regular expression: {error}.') from None
        if not any(map(matches, known)):
            lost.append(pattern)
    if lost:
        named = ", ".join(f'"{p}"' for p in lost)
        raise UserError(f"{what}: {named} matches no parameter. The parameters are:\n{_listing(known)}")


def diff(expected: Any, got: Any) -> list[str]:
    """Returns one line for each path that is missing, not expected, or of another shape or dtype; [] where two trees agree."""
    expected, got = flatten(expected), flatten(got)
    lines = [f"missing: {path} {_form(leaf)}" for path, leaf in expected.items() if path not in got]
    lines += [f"not expected: {path} {_form(leaf)}" for path, leaf in got.items() if path not in expected]
    for path in expected.keys() & got.keys():
        if _form(expected[path]) != _form(got[path]):
            lines.append(f"differs: {path} expected {_form(expected[path])}, got {_form(got[path])}")
    return sorted(lines)


def count(tree: Any) -> int:
    """Returns the number of scalars in all leaves, arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
    """Returns the bytes that all leaves take, arrays or shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def grouped(paths: Iterable[str]) -> str:
    """Returns one line a path; paths that differ only in numbers, as those of many layers do, share one: "layer_#/mlp/kernel (12)"."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(re.sub(r"\d+", "#", path), []).append(path)
    return "\n".join(f"  {group} ({len(of)})" if len(of) > 1 else f"  {of[0]}" for group, of in groups.items())


def _path(keys: Sequence[Any]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _form(leaf: Any) -> str:
    if not hasattr(leaf, "shape"):
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _listing(names: list[str]) -> str:
    shown = [f"  {name}" for name in names[:MOST_NAMES_SHOWN]]
    if len(names) > len(shown):
        shown.append(f"  ... and {len(names) - len(shown)} more")
    return "\n".join(shown)
