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
    values = [n.value for _, t in homes for n in reversed(t.body) if isinstance(n, ast.Assign | ast.AnnAssign) and target(n) == name]
    tables = [literal(value) for value in values if value is not None]
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
        for place_path, place_tree, place in _places(base, node, tree, path):
            found += [*bases(place, place_tree, place_path), (place_path, place_tree, place)]
    return found


def _places(
    base: ast.expr, node: ast.ClassDef, tree: ast.Module, path: pathlib.Path
) -> list[tuple[pathlib.Path, ast.Module, ast.ClassDef]]:
    """Returns where one base of a class is: in the file itself, or in those that it imports from."""
    *parents, name = ast.unparse(base).split(".")
    here = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name and n.lineno < node.lineno and not parents]
    if here:
        return [(path, tree, here[-1])]
    found = []
    for file, original in _origins(".".join(parents), name, tree, path):
        other = parsed(file, f"{path}, base class {original}")
        found += [(file, other, n) for n in other.body if isinstance(n, ast.ClassDef) and n.name == original][:1]
    return found


def methods(node: ast.ClassDef, tree: ast.Module, path: pathlib.Path) -> dict[str, list[str] | None] | None:
    """Returns {what a class and its bases define: a method's arguments; None where it takes any, or is no plain method}.

    None where it cannot be told: a base that cannot be read, a decorator of the class, methods that are set in another way. Of Linen's own
    Module nothing is read.
    """
    if any(ast.unparse(decorator).split("(")[0].split(".")[-1] != "dataclass" for decorator in node.decorator_list):
        return None
    if any(f"{node.name}." in ast.unparse(t) for n in tree.body if isinstance(n, ast.Assign) for t in n.targets):
        return None
    found: dict[str, list[str] | None] = {}
    for base in reversed(node.bases):
        if ast.unparse(base) in ("object", "nn.Module", "linen.Module", "flax.linen.Module"):
            continue
        inherited = [methods(place, place_tree, place_path) for place_path, place_tree, place in _places(base, node, tree, path)]
        if not inherited or None in inherited:
            return None
        found |= inherited[0]
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            a = item.args
            found[item.name] = None if a.kwarg else [x.arg for x in a.posonlyargs + a.args + a.kwonlyargs]
        elif isinstance(item, ast.Assign | ast.AnnAssign):
            names = item.targets if isinstance(item, ast.Assign) else [item.target] if item.value else []
            found |= {n.id: None for name in names for n in ast.walk(name) if isinstance(n, ast.Name)}
        elif not isinstance(item, ast.Expr | ast.Pass):
            return None
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


def target(node: ast.Assign | ast.AnnAssign) -> str:
    """Returns the name that is assigned to, "" where it is none."""
    first = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return first.id if isinstance(first, ast.Name) else ""


def _compile(node: ast.FunctionDef, path: pathlib.Path) -> Any:
    """Compiles one function on its own: it sees builtins only, as the architecture asks of `problems`."""
    plain = copy.deepcopy(node)
    plain.returns, plain.decorator_list = None, []
    for argument in plain.args.args:
        argument.annotation = None
    scope: dict[str, Any] = {}
    exec(compile(ast.Module([plain], []), str(path), "exec"), scope)
    return scope[node.name]
