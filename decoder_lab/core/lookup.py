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
from collections.abc import Mapping
from typing import Any

from decoder_lab.core import modules
from decoder_lab.core.errors import UserError, unknown

PACKAGE = pathlib.Path(__file__).resolve().parent.parent

# kind -> (folder below the package, name of the object that every file of it defines)
KINDS = {
    "model": ("models", "Model"),
    "encoder": ("encoders", "Encoder"),
    "decoder": ("decoders", "Decoder"),
    "task": ("tasks", "Task"),
    "source": ("data/source", "Source"),
    "tokenizer": ("data/tokenizer", "Tokenizer"),
    "packing": ("data/packing", "Packing"),
    "schedule": ("optim/schedule", "schedule"),
    "adapter": ("adapters/method", "Adapter"),
    "evaluator": ("evaluators", "Evaluator"),
    "writer": ("core/writer", "Writer"),
    "family": ("interop/family", "Family"),
    "optimizer": (None, "optimizer"),  # optax's functions, see _optax_files
}
# kind -> what the lab gives: the names that a plug-in's fields without a default may have
GIVEN = {
    "model": ("vocab_size", "source_vocab_size", "char_vocab_size", "num_labels", "num_classes", "max_length", "dtype"),
    "encoder": ("vocab_size", "max_length", "dtype"),
    "decoder": ("vocab_size", "max_length", "dtype"),
    "task": ("tokenizer", "source_tokenizer", "length", "teacher"),
    "source": ("split",),
    "tokenizer": (),
    "packing": ("tokens", "examples", "length"),
    "schedule": ("peak", "total_steps", "steps"),
    "adapter": (),
    "evaluator": ("context",),
    "writer": ("directory", "resume_step"),
    "family": (),
}
LINEN = ("model", "encoder", "decoder")  # kinds whose objects are Linen modules
# field that the lab gives -> where it comes from, for errors
GIVERS = {
    "vocab_size": "data.tokenizer",
    "source_vocab_size": "data.source_tokenizer, or data.tokenizer where that is None",
    **dict.fromkeys(("char_vocab_size", "num_labels", "num_classes"), "the task, where its sizes() has it"),
    "teacher": "the run that task.kw.workdir names",
    "tokens": 'a task that reads rows of a token stream (batching = "tokens")',
    "examples": 'a task that gives examples (batching = "examples")',
}
# arguments that the lab gives although optax has defaults for them
GIVEN_TO_OPTIMIZERS = ("learning_rate", "weight_decay", "weight_decay_rate", "mask", "weight_decay_mask")

UNREADABLE = object()  # a default that is an expression; such a field stays unset unless the user sets it
Duration = str  # annotation of a field that is a duration, checked before the run: `warmup: Duration = "5%"`; also tuple[Duration, ...]


class Plugin:
    """Annotation of a field that holds another plug-in: `Plugin["source"]` is a dict(name=..., kw=...)."""

    def __class_getitem__(cls, kind: str) -> type:
        return dict


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


def make(kind: str, plugin: Any, **given_by_lab: Any) -> Any:
    """Builds the object of a plug-in `{"name", "kw"}` (a dict, a ConfigDict, or anything with these attributes).

    Of what the lab gives only the fields that the plug-in asks for are passed; a `variant` in kw is expanded below the other settings.
    Dicts in the fields of Linen modules become FrozenDicts, lists tuples, so that the module can be hashed and compared.
    Errors: UserError where the plug-in asks for a field that is not given, and says where such fields come from.
    """
    name, kw = part(plugin)
    asked = given(kind, name)
    if missing := [k for k in asked if k not in given_by_lab]:
        there = ", ".join(k for k in GIVEN[kind] if k in given_by_lab) or "nothing"
        sources = "; ".join(f"{k} is given by {GIVERS.get(k, 'the lab')}" for k in missing)
        raise UserError(f'{kind} "{name}" needs {", ".join(missing)}; here there is {there}. {sources}.')
    kw = {**variants(kind, name).get(kw.get("variant"), {}), **kw}
    found = find(kind, name)
    return found(**{k: given_by_lab[k] for k in asked}, **(_frozen_items(kw) if kind in LINEN else kw))


def part(plugin: Any) -> tuple[str, dict]:
    """Returns (name, kw as plain nested dicts) of a plug-in in any of the forms that `make` takes."""
    name, kw = (plugin["name"], plugin.get("kw")) if isinstance(plugin, Mapping) else (plugin.name, plugin.kw)
    return name, _plain(kw or {})


def _plain(value: Any) -> Any:
    """ConfigDict, FrozenDict, dict -> dict, at every depth."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _frozen_items(kw: dict) -> dict:
    from flax.core import FrozenDict

    def frozen(value: Any) -> Any:
        if isinstance(value, Mapping):
            return FrozenDict({k: frozen(v) for k, v in value.items()})
        return tuple(frozen(v) for v in value) if isinstance(value, list | tuple) else value

    return {k: frozen(v) for k, v in kw.items()}


def fields(kind: str, name: str) -> dict[str, Field]:
    """Returns the user's fields of a plug-in (those with a default), read without importing it."""
    return _read(kind, name)[0]


def given(kind: str, name: str) -> tuple[str, ...]:
    """Returns the names of the fields that the lab gives to a plug-in (those without a default)."""
    return _read(kind, name)[1]


def variants(kind: str, name: str) -> dict[str, dict]:
    """Returns the plug-in's VARIANTS literal ({} where there is none)."""
    return _read(kind, name)[2]


def problems(kind: str, name: str, kw: dict, length: int | None = None) -> list[str]:
    """Runs the plug-in's own cross-field checks on completed fields; [] where it has none.

    They are `problems(kw)`, or `problems(kw, length)` where they ask for the sequence_length too; None is one that is not known yet.
    """
    check = _read(kind, name)[3]
    if check is None:
        return []
    return list(check(dict(kw), length) if check.__code__.co_argcount > 1 else check(dict(kw)))


def numbers(kind: str, name: str) -> Any:
    """Returns what a plug-in's file says of the numbers that it gives, NUMBERS or `numbers`; None without either; see core/numbers.py."""
    return _read(kind, name)[4]


def needs(kind: str, name: str) -> Any:
    """Returns what a task's file says of keywords that its model must know, `needs`; None without it; see core/calls.py."""
    return _read(kind, name)[5]


@functools.cache
def _read(kind: str, name: str) -> tuple[dict[str, Field], tuple[str, ...], dict, Any, Any, Any]:
    path, attribute = location(kind, name)
    tree = _parsed(path, f"{kind} {name}")
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == attribute), None)
    if node is None:
        raise UserError(f"{kind} {name}: {path} does not define `{attribute}`.")
    homes = [(path, tree)]
    if isinstance(node, ast.ClassDef):
        user, lab = {}, {}
        for base_path, base_tree, base in [*_bases(node, tree, path), (path, tree, node)]:
            more, given_by_lab = _class_fields(base)
            lab |= {k: None for k in given_by_lab if k not in user}
            user |= more
            homes.insert(1, (base_path, base_tree))
        lab = [k for k in lab if k not in user]
    else:
        user, lab = _function_fields(node)
    if kind == "optimizer":
        user = {k: v for k, v in user.items() if k not in GIVEN_TO_OPTIMIZERS}
        return user, tuple(lab), {}, _unsupported(name), None, None
    if strange := [k for k in lab if k not in GIVEN[kind]]:
        given_names = ", ".join(GIVEN[kind]) or "nothing"
        raise UserError(
            f"{kind} {name}: {path} asks for {', '.join(strange)} without a default; a {kind} is given {given_names}. Give it a default."
        )
    tables, checks = (_said(homes, name) for name in ("VARIANTS", "problems"))
    needed = _said(homes, "needs") if kind == "task" else None
    own = homes[:1]  # a class may give more numbers than the one that it inherits from
    return user, tuple(lab), tables or {}, checks, _said(own, "numbers") or _said(own, "NUMBERS"), needed


def _said(homes: list[tuple[pathlib.Path, ast.Module]], name: str) -> Any:
    """Returns the first literal or function of this name in some files; None without one."""
    found = [(n, p) for p, t in homes for n in t.body if isinstance(n, ast.FunctionDef) and n.name == name]
    tables = [_literal(n.value) for _, t in homes for n in t.body if isinstance(n, ast.Assign) and _target(n) == name]
    return _compile(*found[0]) if found else tables[0] if tables else None


def _parsed(path: pathlib.Path, what: str) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{what}: {path}:{error.lineno} does not parse: {error.msg}.") from error


def _unsupported(name: str) -> Any:
    """Returns the check of an optimiser: those that the lab cannot run say why, read from the source of optim/optimizer.py."""
    tree = ast.parse((PACKAGE / "optim" / "optimizer.py").read_text(encoding="utf-8"))
    reasons = next((_literal(n.value) for n in tree.body if isinstance(n, ast.Assign) and _target(n) == "UNSUPPORTED"), {})
    return (lambda kw: [f"{name} {reasons[name]}."]) if name in reasons else None


def _bases(node: ast.ClassDef, tree: ast.Module, path: pathlib.Path) -> list[tuple[pathlib.Path, ast.Module, ast.ClassDef]]:
    """Returns (file, its tree, class) of the base classes, and of theirs, that can be found by name, without importing, last base first."""
    found = []
    for base in reversed(node.bases):
        *parents, name = ast.unparse(base).split(".")
        here = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name and n.lineno < node.lineno and not parents]
        places = [(path, tree, here[-1])] if here else []
        for file, original in [] if here else _origins(".".join(parents), name, tree, path):
            other = _parsed(file, f"{path}, base class {original}")
            places += [(file, other, n) for n in other.body if isinstance(n, ast.ClassDef) and n.name == original][:1]
        for place_path, place_tree, place in places:
            found += [*_bases(place, place_tree, place_path), (place_path, place_tree, place)]
    return found


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


def location(kind: str, name: str) -> tuple[pathlib.Path, str]:
    """Returns the file of a plug-in and the name of the object that it defines there."""
    folder, attribute = KINDS[kind]
    if "." in name:
        file = modules.source_of(name)
        if file is None:
            raise UserError(f"{kind}: module {name} cannot be found.{modules.neighbour(name)} Run from the folder that holds it.")
        return file, attribute
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
