"""Whether a model gives what a task learns from, and its call knows what is handed to it: read from their files, before anything runs.

Both files may say OUTPUT, such as "labels": a task trains models that say the same. A task's file may say `def needs(kw)`: {keyword of the
model's call: the setting that hands it on}, of keywords that only some models know. A call with `**more` hands on what it does not know to
the model's decoder. No file is imported; where nothing can be told nothing is said.
"""

import ast
import functools
from typing import Any

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError


def problems(task: Any, model: Any) -> list[str]:
    """Returns what does not fit of a task `{"name", "kw"}` and a model `{"name", "kw"}`.

    That is one sentence where the model gives something else, or one for each keyword that its call is handed and does not know.
    Errors: UserError where a user's own `needs` fails.
    """
    (name, kw), (other, _) = lookup.part(task), lookup.part(model)
    learned, given = lookup.output("task", name), lookup.output("model", other)
    if learned and given and learned != given:
        return [
            f"{name} learns from {learned}, and model {other} gives {given}. Models for this task: {_alike('model', learned)}. "
            f"Tasks for this model: {_alike('task', given)}."
        ]
    says = lookup.needs("task", name)
    code = getattr(says, "__code__", None)
    if code is None or code.co_varnames[: code.co_argcount] != ("kw",):  # a function of that name may be something else
        return []
    try:
        wanted = dict(says(kw))
    except Exception as error:  # a user's own function
        raise UserError(f"task {name}: its `needs` failed: {type(error).__name__}: {error}. It sees builtins only.") from error
    lacking = {keyword: _lacking("model", model, keyword) for keyword in wanted}
    return [f"{wanted[keyword]}: {refusal(*at, keyword)} Or go without this setting." for keyword, at in lacking.items() if at]


def _alike(kind: str, output: str) -> str:
    """Returns the names of the lab's models that give something, or of its tasks that learn from it."""
    return ", ".join(n for n in lookup.names(kind) if lookup.output(kind, n) == output) or "none"


def refusal(kind: str, name: str, keyword: str) -> str:
    """Returns the sentence that a plug-in does not know a keyword, and which of the lab's do."""
    able = [n for n in lookup.names(kind) if keyword in (_arguments(kind, n) or ((), False))[0]]
    return f'expected a {kind} that knows {keyword}, got "{name}". Those of the lab that do: {", ".join(able) or "none"}.'


def _lacking(kind: str, plugin: Any, keyword: str) -> tuple[str, str] | None:
    """Returns (kind, name) of the part of a model that is handed a keyword and does not know it; None: it does, or it cannot be told."""
    name, kw = lookup.part(plugin)
    found = _arguments(kind, name)
    if found is None or keyword in found[0]:
        return None
    if not found[1]:
        return kind, name
    inside = [kw[key] for key, field in lookup.fields(kind, name).items() if field.plugin == "decoder" and kw.get(key)]
    return _lacking("decoder", inside[0], keyword) if len(inside) == 1 else None


@functools.cache
def _arguments(kind: str, name: str) -> tuple[tuple[str, ...], bool] | None:
    """Returns the arguments of a plug-in's `__call__` and whether it takes any other; None where its class has none of its own."""
    path, attribute = lookup.location(kind, name)
    classes = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef) and n.name == attribute]
    calls = [n.args for c in classes for n in c.body if isinstance(n, ast.FunctionDef) and n.name == "__call__"]
    return next(((tuple(a.arg for a in c.posonlyargs + c.args + c.kwonlyargs), c.kwarg is not None) for c in calls), None)
