"""What a plug-in's file says, read from its source text without importing it: fields, literals, single functions, base classes."""

import ast
import copy
import dataclasses
import pathlib
from typing import Any

from decoder_lab.core import modules
from decoder_lab.core.errors import UserError

UNREADABLE = object()  # a default that is an expression; such a field stays unset unless the user sets it


@dataclasses.dataclass(frozen=True)
class Field:
    """One setting: its type (None: anything), default, allowed choices, plug-in kind, and whether None is allowed."""

    type: type | None
    default: Any = None
    choices: tuple | None = None  # of a tuple: for each item
    plugin: str | None = None  # the kind, if the value is a plug-in
    plugins: str | None = None  # the kind, if the value is a dict of plug-ins
    optional: bool = False
    item: type | None = None  # type of a tuple's items
    duration: bool = False  # whether it is a duration, or a tuple of them
    doc: str = ""


def said(homes: list[tuple[pathlib.Path, ast.Module]], name: str) -> Any:
    """Returns the function or literal of this name of the first file that has one, as a file leaves it; None without one."""
    found = [(n, p) for p, t in homes for n in reversed(t.body) if isinstance(n, ast.FunctionDef) and n.name == name]
    tables = [literal(n.value) for _, t in homes for n in reversed(t.body) if isinstance(n, ast.Assign) and target(n) == name]
    return _compile(*found[0]) if found else tables[0] if tables else None


def parsed(path: pathlib.Path, what: str) -> ast.Module:
    """Returns a file's syntax tree. Errors: UserError, about `what`, with the line that does not parse."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{what}: {path}:{error.lineno} does not parse: {error.msg}.") from error


def bases(node: ast.ClassDef, tree: ast.Module, path: pathlib.Path) -> list[tuple[pathlib.Path, ast.Module, ast.ClassDef]]:
    """Returns (file, its tree, class) of the base classes, and of theirs, that can be found by name, without importing, last base first."""
    found = []
    for base in reversed(node.bases):
        *parents, name = ast.unparse(base).split(".")
        here = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name and n.lineno < node.lineno and not parents]
        places = [(path, tree, here[-1])] if here else []
        for file, original in [] if here else _origins(".".join(parents), name, tree, path):
            other = parsed(file, f"{path}, base class {original}")
            places += [(file, other, n) for n in other.body if isinstance(n, ast.ClassDef) and n.name == original][:1]
        for place_path, place_tree, place in places:
            found += [*bases(place, place_tree, place_path), (place_path, place_tree, place)]
    return found


def methods(node: ast.ClassDef, tree: ast.Module, path: pathlib.Path) -> dict[str, list[str] | None] | None:
    """Returns {method of a class, or of its bases: its arguments, None where it takes any}; None where a base cannot be read.

    Of Linen's own Module nothing is read.
    """
    found: dict[str, list[str] | None] = {}
    classes = [base[2] for base in bases(node, tree, path)] + [node]
    known = {item.name for item in classes} | {"Module", "object"}
    for item in classes:
        if any(ast.unparse(base).split(".")[-1] not in known for base in item.bases):
            return None
        for method in item.body:
            if isinstance(method, ast.FunctionDef):
                a = method.args
                found[method.name] = None if a.kwarg else [x.arg for x in a.posonlyargs + a.args + a.kwonlyargs]
            elif isinstance(method, ast.Assign) and target(method):
                found[target(method)] = None
    return None if "__getattr__" in found else found


def _origins(prefix: str, name: str, tree: ast.Module, path: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Returns (file, name there) that `prefix.name` (or the bare `name`) may come from by the imports of `tree`."""
    found = []
    for item in tree.body:
        for alias in item.names if isinstance(item, ast.Import | ast.ImportFrom) else ():
            called = alias.asname or alias.name
            level = item.level if isinstance(item, ast.ImportFrom) else 0
            folder = path.parents[level - 1] if level else None
            if isinstance(item, ast.Import) and called == prefix:
                found.append((modules.source_of(alias.name), name))
            elif isinstance(item, ast.ImportFrom) and called == prefix:
                found.append((modules.source_of(".".join(filter(None, [item.module, alias.name])), folder), name))
            elif isinstance(item, ast.ImportFrom) and not prefix and called == name:
                found.append((modules.source_of(item.module or "", folder), alias.name))
    return [(file, original) for file, original in found if file is not None]


def class_fields(node: ast.ClassDef) -> tuple[dict[str, Field], list[str]]:
    """Returns (a class's fields with a default, the names of those without)."""
    user, lab = {}, []
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name) or "ClassVar" in ast.unparse(item.annotation):
            continue
        if item.value is None:
            lab.append(item.target.id)
        elif not (isinstance(item.value, ast.Call) and any(k.arg == "init" for k in item.value.keywords)):
            user[item.target.id] = _field(item.annotation, _default(item.value))
    return user, lab


def function_fields(node: ast.FunctionDef) -> tuple[dict[str, Field], list[str]]:
    """Returns (a function's arguments with a default, the names of those without)."""
    positional = node.args.posonlyargs + node.args.args
    padded = [None] * (len(positional) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = list(zip(positional, padded, strict=True)) + list(zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))
    user = {a.arg: _field(a.annotation, _default(d)) for a, d in pairs if d is not None}
    return user, [a.arg for a, d in pairs if d is None]


def _default(node: ast.expr) -> Any:
    """Evaluates a default: a literal or `field(default_factory=dict)`."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "default_factory" and isinstance(keyword.value, ast.Lambda):
                return literal(keyword.value.body)
            if keyword.arg == "default_factory":
                return {"dict": {}, "tuple": ()}.get(ast.unparse(keyword.value))
            if keyword.arg == "default":
                return literal(keyword.value)
    return literal(node)


def literal(node: ast.expr) -> Any:
    """ast.literal_eval that also reads `dict(a=1)`, the form that configs are written in."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
        return {k.arg: literal(k.value) for k in node.keywords}
    if isinstance(node, ast.Dict):
        return {literal(k): literal(v) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Tuple):
        return tuple(literal(x) for x in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNREADABLE


def _field(annotation: ast.expr | None, default: Any) -> Field:
    text = ast.unparse(annotation).replace("typing.", "").replace("lookup.", "") if annotation is not None else ""
    optional = text.endswith("| None") or text.startswith("None |")
    text = text.removesuffix("| None").removeprefix("None |").strip()
    if text.startswith("Literal["):
        return Field(str, default, choices=tuple(ast.literal_eval(f"({text[8:-1]},)")), optional=optional)
    if text.startswith("Plugin["):
        return Field(dict, default, plugin=ast.literal_eval(text[7:-1]), optional=optional)
    if text.startswith("dict[str, Plugin["):
        return Field(dict, default, plugins=ast.literal_eval(text[17:-2]), optional=optional)
    simple = {"int": int, "float": float, "str": str, "bool": bool, "dict": dict, "tuple": tuple, "Duration": str}
    if text.startswith("tuple[Literal["):
        choices = ast.literal_eval(f"({text[14 : text.index(']')]},)")
        return Field(tuple, default, choices=choices, optional=optional, item=str)
    if text.startswith("tuple["):
        item = text[6:-1].split(",")[0].strip()
        return Field(tuple, default, optional=optional, item=simple.get(item), duration=item == "Duration")
    if text == "Duration":
        return Field(str, default, optional=optional, duration=True)
    base = simple.get(text.split("[")[0])
    if base is None and isinstance(default, bool | int | float | str | tuple):
        base = type(default)
    return Field(base, default, optional=optional or default is None or default is UNREADABLE)


def target(node: ast.Assign) -> str:
    """Returns the name that is assigned to, "" where it is none."""
    return node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""


def _compile(node: ast.FunctionDef, path: pathlib.Path) -> Any:
    """Compiles one function on its own: it sees builtins only, as the architecture asks of `problems`."""
    plain = copy.deepcopy(node)
    plain.returns, plain.decorator_list = None, []
    for argument in plain.args.args:
        argument.annotation = None
    scope: dict[str, Any] = {}
    exec(compile(ast.Module([plain], []), str(path), "exec"), scope)
    return scope[node.name]
