"""Which numbers a run's evaluators give, as their files and the task's say, so that a mistyped one is found before anything runs.

An evaluator's file says it by `def numbers(kw, task)`: a list of names, `task` those of the task, None where nobody knows; a task's file by
`NUMBERS = ("loss", ...)`, all that it gives with any settings. Of a file that says nothing nothing is known. No file is imported.
"""

from collections.abc import Mapping
from typing import Any

from decoder_lab.core import durations, lookup
from decoder_lab.core.errors import UserError, nearest, unknown

ARGUMENTS = ("kw", "task")
TRAINING = "train"  # training's own numbers, beside those of the evaluators


def of_task(task: Any) -> list[str] | None:
    """Returns the names of the numbers that a task `{"name", "kw"}` gives, with those of a task inside it; None: not known."""
    name, kw = lookup.part(task)
    own = lookup.numbers("task", name)
    own = own if isinstance(own, tuple) else None
    inside = [of_task(kw[key]) for key, field in lookup.fields("task", name).items() if field.plugin == "task" and kw.get(key)]
    if own is None or None in inside:
        return None
    return list(dict.fromkeys([*own, *(number for found in inside for number in found)]))


def of_evaluator(evaluator: Any, task: Any) -> list[str] | None:
    """Returns the names of the numbers that an evaluator `{"name", "kw"}` gives of a task; None: not known."""
    name, kw = lookup.part(evaluator)
    says = lookup.numbers("evaluator", name)
    code = getattr(says, "__code__", None)
    if code is None or code.co_varnames[: code.co_argcount] != ARGUMENTS:  # a function of that name may be something else
        return None
    try:
        return says({**_defaults(name), **kw}, of_task(task))
    except Exception as error:  # a user's own function
        raise UserError(f"evaluator {name}: its `numbers` failed: {type(error).__name__}: {error}. It sees builtins only.") from error


def problem(what: str, number: str, evaluators: Mapping[str, Any], task: Any, training: bool = True) -> str | None:
    """Returns why no run of these evaluators, {key in the config: {"name", "kw", "every"}}, gives a number "key/name"; None where one may.

    what: how the setting or the flag is called that asks for it.
    training: whether a number of training's own will do.
    Errors: UserError for a plug-in or a duration that is wrong itself.
    """
    key, _, name = number.partition("/")
    if training and key == TRAINING:
        return None
    if key not in evaluators:
        there = [f"{known}/..." for known in (*evaluators, *([TRAINING] if training else []))]
        return f"{what}: {number} comes from no evaluator of the config.{nearest(key, evaluators)} There are: {', '.join(there) or 'none'}."
    if durations.parse(every := evaluators[key]["every"])[0] == 0:
        return f"{what}: {number} is never worked out, as evaluators.{key}.every is {every!r}."
    known = of_evaluator(evaluators[key], task)
    if known is None or name in known:
        return None
    return unknown(what, number, [f"{key}/{one}" for one in known])


def _defaults(name: str) -> dict[str, Any]:
    return {key: field.default for key, field in lookup.fields("evaluator", name).items()}
