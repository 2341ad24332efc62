"""Plug-ins by name: a name is a file of its kind's folder, or a dotted module path. No registry, no import-time effects.

What a plug-in accepts is read from its source text, without importing it: a field without a default is given by the lab, a field with a
default is the user's and typed by its annotation. So a config is checked before JAX is imported.
"""

import ast
import copy
import dataclasses
import functools
import importlib
import importlib.util
import pathlib
from typing import Any

from decoder_lab.core.errors import UserError, unknown

PACKAGE = pathlib.Path(__file__).resolve().parent.parent

# kind -> (folder below the package, name of the object that every file of it defines)
KINDS = {
    "model": ("models", "Model"),
    "task": ("tasks", "Task"),
    "source": ("data/source", "Source"),
    "tokenizer": ("data/tokenizer", "Tokenizer"),
    "packing": ("data/packing", "Packing"),
    "schedule": ("optim/schedule", "schedule"),
    "evaluator": ("evaluators", "Evaluator"),
    "writer": ("core/writer", "Writer"),
    "optimizer": (None, "optimizer"),  # optax's functions, see _optax_files
}
# arguments that the lab gives although optax has defaults for them
GIVEN_TO_OPTIMIZERS = ("learning_rate", "weight_decay", "weight_decay_rate", "mask", "weight_decay_mask")


UNREADABLE = object()  # a default that is an expression; such a field stays unset unless the user sets it


class Plugin:
    """Annotation of a field that holds another plug-in: `Plugin["source"]` is a dict(name=..., kw=...)."""

    def __class_getitem__(cls, kind: str) -> type:
        return dict


@dataclasses.dataclass(frozen=True)
class Field:
    """One setting: its type (None: anything), default, allowed choices, plug-in kind, and whether None is allowed."""

    type: type | None
    default: Any = None
    choices: tuple | None = None
    plugin: str | None = None  # the kind, if the value is a plug-in
    plugins: str | None = None  # the kind, if the value is a dict of plug-ins
    optional: bool = False
    item: type | None = None  # type of a tuple's items
    doc: str = ""


def names(kind: str) -> list[str]:
    """Returns the names of all plug-ins of a kind that come with the lab (for optimisers: optax's)."""
    folder, _ = KINDS[kind]
    if folder is None:
        return sorted(_optax_functions())
    return sorted(p.stem for p in (PACKAGE / folder).glob("*.py") if not p.stem.startswith("_"))


def find(kind: str, name: str) -> Any:
    """Imports a plug-in and returns its object. Errors: UserError with the nearest name."""
    folder, attribute = KINDS[kind]
    if "." in name:
        module, where = name, name
    elif folder is None:
        module = _optax_functions()[name][0] if name in _optax_functions() else None
        attribute, where = name, "optax"
    else:
        module = f"decoder_lab.{folder.replace('/', '.')}.{name}" if name in names(kind) else None
        where = f"decoder_lab/{folder}/{name}.py"
    if module is None:
        raise UserError(unknown(kind, name, names(kind)))
    found = getattr(importlib.import_module(module), attribute, None)
    if found is None:
        raise UserError(f"{kind} {name}: {where} does not define `{attribute}`.")
    return found


def fields(kind: str, name: str) -> dict[str, Field]:
    """Returns the user's fields of a plug-in (those with a default), read without importing it."""
    return _read(kind, name)[0]


def given(kind: str, name: str) -> tuple[str, ...]:
    """Returns the names of the fields that the lab gives to a plug-in (those without a default)."""
    return _read(kind, name)[1]


def variants(kind: str, name: str) -> dict[str, dict]:
    """Returns the plug-in's VARIANTS literal ({} where there is none)."""
    return _read(kind, name)[2]


def problems(kind: str, name: str, kw: dict) -> list[str]:
    """Runs the plug-in's own cross-field checks, `problems(kw)`, on completed fields; [] where it has none."""
    check = _read(kind, name)[3]
    return list(check(dict(kw))) if check else []


@functools.cache
def _read(kind: str, name: str) -> tuple[dict[str, Field], tuple[str, ...], dict, Any]:
    path, attribute = _location(kind, name)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{kind} {name}: {path}:{error.lineno} does not parse: {error.msg}.") from error
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == attribute), None)
    if node is None:
        raise UserError(f"{kind} {name}: {path} does not define `{attribute}`.")
    reader = _class_fields if isinstance(node, ast.ClassDef) else _function_fields
    user, lab = reader(node)
    if kind == "optimizer":
        user = {k: v for k, v in user.items() if k not in GIVEN_TO_OPTIMIZERS}
    table = next((n.value for n in tree.body if isinstance(n, ast.Assign) and _target(n) == "VARIANTS"), None)
    check = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "problems"), None)
    return user, tuple(lab), _literal(table) if table is not None else {}, _compile(check, path) if check else None


def _location(kind: str, name: str) -> tuple[pathlib.Path, str]:
    folder, attribute = KINDS[kind]
    if "." in name:
        try:
            spec = importlib.util.find_spec(name)
        except ImportError as error:
            raise UserError(f"{kind}: module {name} cannot be found: {error}. Run from the folder that holds it.") from error
        if spec is None or spec.origin is None:
            raise UserError(f"{kind}: module {name} cannot be found. Run from the folder that holds it.")
        return pathlib.Path(spec.origin), attribute
    if name not in names(kind):
        raise UserError(unknown(kind, name, names(kind)))
    if folder is None:
        return _optax_functions()[name][1], name
    return PACKAGE / folder / f"{name}.py", attribute


@functools.cache
def _optax_functions() -> dict[str, tuple[str, pathlib.Path]]:
    """Maps the name of each optax optimiser to (module that exports it, file that defines it), read without importing optax."""
    spec = importlib.util.find_spec("optax")
    if spec is None:
        raise UserError("optax is not installed: run scripts/test or `pip install -e .` in the project's folder.")
    root = pathlib.Path(spec.origin).parent
    found = {}
    files = [("optax", root / "_src" / "alias.py")]
    files += [("optax.contrib", p) for p in sorted((root / "contrib").glob("_*.py")) if not p.stem.endswith(("_test", "__init__"))]
    for module, path in files:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = [a.arg for a in node.args.args + node.args.kwonlyargs]
                if "learning_rate" in arguments and not node.name.startswith("scale_by_"):
                    found.setdefault(node.name, (module, path))
    return found


def _class_fields(node: ast.ClassDef) -> tuple[dict[str, Field], list[str]]:
    user, lab = {}, []
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name) or "ClassVar" in ast.unparse(item.annotation):
            continue
        if item.value is None:
            lab.append(item.target.id)
        elif not (isinstance(item.value, ast.Call) and any(k.arg == "init" for k in item.value.keywords)):
            user[item.target.id] = _field(item.annotation, _default(item.value))
    return user, lab


def _function_fields(node: ast.FunctionDef) -> tuple[dict[str, Field], list[str]]:
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
                return _literal(keyword.value.body)
            if keyword.arg == "default_factory":
                return {"dict": {}, "tuple": ()}.get(ast.unparse(keyword.value))
            if keyword.arg == "default":
                return _literal(keyword.value)
    return _literal(node)


def _literal(node: ast.expr) -> Any:
    """ast.literal_eval that also reads `dict(a=1)`, the form that configs are written in."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
        return {k.arg: _literal(k.value) for k in node.keywords}
    if isinstance(node, ast.Dict):
        return {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Tuple):
        return tuple(_literal(x) for x in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNREADABLE


def _field(annotation: ast.expr | None, default: Any) -> Field:
    text = ast.unparse(annotation).replace("typing.", "") if annotation is not None else ""
    optional = text.endswith("| None") or text.startswith("None |")
    text = text.removesuffix("| None").removeprefix("None |").strip()
    if text.startswith("Literal["):
        return Field(str, default, choices=tuple(ast.literal_eval(f"({text[8:-1]},)")), optional=optional)
    if text.startswith("Plugin["):
        return Field(dict, default, plugin=ast.literal_eval(text[7:-1]), optional=optional)
    if text.startswith("dict[str, Plugin["):
        return Field(dict, default, plugins=ast.literal_eval(text[17:-2]), optional=optional)
    simple = {"int": int, "float": float, "str": str, "bool": bool, "dict": dict, "tuple": tuple}
    if text.startswith("tuple["):
        return Field(tuple, default, optional=optional, item=simple.get(text[6:-1].split(",")[0].strip()))
    base = simple.get(text.split("[")[0])
    if base is None and isinstance(default, bool | int | float | str | tuple):
        base = type(default)
    return Field(base, default, optional=optional or default is None or default is UNREADABLE)


def _target(node: ast.Assign) -> str:
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
