"""Plug-ins by name: a name is a file of its kind's folder, or a dotted module path. No registry, no import-time effects.

What a plug-in accepts is read from its source text, without importing it: a field without a default is given by the lab, a field with a
default is the user's and typed by its annotation. So a config is checked before JAX is imported.
"""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import re
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from decoder_lab.core import modules, signatures
from decoder_lab.core.errors import UserError, unknown
from decoder_lab.core.signatures import Field

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
# kind -> the methods that one must have, with the arguments that are handed to it by name
METHODS = {
    "encoder": {"__call__": ("segments_BS", "deterministic")},
    "decoder": {"__call__": ("segments_BT", "deterministic", "return_hidden"), "init_cache": ()},
    "task": {"example": (), "metrics": ("rng", "progress"), "summary": (), "fingerprint": (), "dummy": (), "forward": ()},
    "source": {"__len__": (), "__getitem__": (), "fingerprint": ()},
    "tokenizer": {"train": (), "load": (), "encode": (), "decode": (), "fingerprint": ()},
    "evaluator": {"run": ()},
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

Duration = str  # annotation of a field that is a duration, checked before the run: `warmup: Duration = "5%"`; also tuple[Duration, ...]


class Plugin:
    """Annotation of a field that holds another plug-in: `Plugin["source"]` is a dict(name=..., kw=...)."""

    def __class_getitem__(cls, kind: str) -> type:
        return dict


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
    found = getattr(imported(module) if "." in name else importlib.import_module(module), attribute, None)
    if found is None:
        raise UserError(f"{kind} {name}: {where} does not define `{attribute}`.")
    return found


def import_own(settings: Iterable[tuple[str, Any]]) -> None:
    """Imports the plug-ins that are the user's own, of (path, value) of every setting: what fails in them is said before data is read."""
    settings = dict(settings)
    plugins = {path[: match.start()] for path in settings for match in re.finditer(r"\.kw(?=\.|$)", path)}
    for path, value in settings.items():
        dotted = path.endswith(".name") and path.removesuffix(".name") in plugins and isinstance(value, str) and "." in value
        if dotted and all(part.isidentifier() for part in value.split(".")) and modules.source_of(value):
            imported(value)


def imported(module: str) -> Any:
    """Imports a user's own module. Errors: UserError, with the place, where that fails."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        frames, own = traceback.extract_tb(error.__traceback__), str(modules.source_of(module))
        at = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (at.filename, at.lineno)
        raise UserError(f"{module} cannot be imported: {type(error).__name__}: {error} ({where[0]}:{where[1]}).") from error


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
    return _read(kind, name).fields


def given(kind: str, name: str) -> tuple[str, ...]:
    """Returns the names of the fields that the lab gives to a plug-in (those without a default)."""
    return _read(kind, name).given


def variants(kind: str, name: str) -> dict[str, dict]:
    """Returns the plug-in's VARIANTS literal ({} where there is none)."""
    return _read(kind, name).variants


def problems(kind: str, name: str, kw: dict, length: int | None = None) -> list[str]:
    """Runs the plug-in's own cross-field checks on completed fields; [] where it has none.

    They are `problems(kw)`, or `problems(kw, length)` where they ask for the sequence_length too; None is one that is not known yet.
    Errors: UserError where they fail.
    """
    if kind == "schedule" and "peak" not in given(kind, name):
        return [f'{name}: it must ask for "peak", which is config.lr, without a default']
    if kind == "schedule" and (own := [k for k in GIVEN[kind] if k in fields(kind, name)]):
        return [f"{name}: the lab gives {', '.join(own)}: leave the default out"]
    if lacking := _read(kind, name).lacking:
        return [f"{name}: {', '.join(lacking)} must be there: docs/architecture.md says what plug-ins of kind {kind} have"]
    check = _read(kind, name).problems
    if check is None:
        return []
    more = (length,) if getattr(check, "__code__", None) and check.__code__.co_argcount > 1 else ()
    try:
        return list(check(dict(kw), *more))
    except Exception as error:  # a user's own function
        raise UserError(f"{kind} {name}: its `problems` failed: {type(error).__name__}: {error}. It sees builtins only.") from error


def numbers(kind: str, name: str) -> Any:
    """Returns what a plug-in's file says of the numbers that it gives, NUMBERS or `numbers`; None without either; see core/numbers.py."""
    return _read(kind, name).numbers


def needs(kind: str, name: str) -> Any:
    """Returns what a task's file says of keywords that its model must know, `needs`; None without it; see core/calls.py."""
    return _read(kind, name).needs


def output(kind: str, name: str) -> str | None:
    """Returns what a model's or a task's own file says of what such a model gives, OUTPUT; None without it; see core/calls.py."""
    found = _read(kind, name).output
    return found if isinstance(found, str) else None


@dataclasses.dataclass(frozen=True)
class _File:
    """What a plug-in's file says, see the functions above."""

    fields: dict[str, Field]
    given: tuple[str, ...]
    variants: dict = dataclasses.field(default_factory=dict)
    problems: Any = None
    numbers: Any = None
    needs: Any = None
    output: Any = None
    lacking: tuple[str, ...] = ()


@functools.cache
def _read(kind: str, name: str) -> _File:
    path, attribute = location(kind, name)
    tree = signatures.parsed(path, f"{kind} {name}")
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == attribute), None)
    if node is None:
        raise UserError(f"{kind} {name}: {path} does not define `{attribute}`.")
    homes = [(path, tree)]
    if isinstance(node, ast.ClassDef):
        user, lab = {}, {}
        for base_path, base_tree, base in [*signatures.bases(node, tree, path), (path, tree, node)]:
            more, given_by_lab = signatures.class_fields(base)
            lab |= {k: None for k in given_by_lab if k not in user}
            user |= more
            homes.insert(1, (base_path, base_tree))
        lab = [k for k in lab if k not in user]
    else:
        user, lab = signatures.function_fields(node)
    if kind == "optimizer":
        return _File({k: v for k, v in user.items() if k not in GIVEN_TO_OPTIMIZERS}, tuple(lab), problems=_unsupported(name))
    if strange := [k for k in lab if k not in GIVEN[kind]]:
        given_names = ", ".join(GIVEN[kind]) or "nothing"
        raise UserError(
            f"{kind} {name}: {path} asks for {', '.join(strange)} without a default; the lab gives {given_names}. Give it a default."
        )
    said, own = signatures.said, homes[:1]  # a class may give more numbers, or something else, than the one that it inherits from
    return _File(
        user,
        tuple(lab),
        variants=said(homes, "VARIANTS") or {},
        problems=said(homes, "problems"),
        numbers=said(own, "numbers") or said(own, "NUMBERS"),
        needs=said(homes, "needs") if kind == "task" else None,
        output=said(own, "OUTPUT"),
        lacking=_lacking(kind, node, tree, path),
    )


def _lacking(kind: str, node: Any, tree: ast.Module, path: pathlib.Path) -> tuple[str, ...]:
    """Returns the methods of its kind, and their arguments, that a class has not; none where that cannot be told."""
    there = signatures.methods(node, tree, path) if kind in METHODS and isinstance(node, ast.ClassDef) else None
    if there is None:
        return ()
    found = [f"the method {method}" for method in METHODS[kind] if method not in there]
    arguments = ((method, name) for method, names in METHODS[kind].items() for name in names if there.get(method) is not None)
    return (*found, *(f"the argument {name} of {method}" for method, name in arguments if name not in there[method]))


def _unsupported(name: str) -> Any:
    """Returns the check of an optimiser: those that the lab cannot run say why, read from the source of optim/optimizer.py."""
    path = PACKAGE / "optim" / "optimizer.py"
    reasons = signatures.said([(path, signatures.parsed(path, f"optimizer {name}"))], "UNSUPPORTED") or {}
    return (lambda kw: [f"{name} {reasons[name]}."]) if name in reasons else None


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
