"""What can be wrong with a config whose every setting is known: ranges, forms, contradictions, and what plug-ins check themselves."""

import re
from typing import Any

from decoder_lab.core import calls, durations, fields, lookup, numbers
from decoder_lab.core import values as typed
from decoder_lab.core.axes import AXES
from decoder_lab.core.errors import UserError, unknown
from decoder_lab.core.signatures import Field


def check(tree: dict[str, tuple[Field, Any]], problems: list[str]) -> None:
    """Checks values against choices, ranges and forms, and lets each plug-in check its own."""
    for path, (field, value) in tree.items():
        problems.extend(typed.problems(path, field, value))
    patterns = ("optimizer.no_decay", "init_from.include", "init_from.exclude", "init_from.extend", "init_from.stretch")
    patterns += ("init_from.first_rows",)
    for pattern in [p for name in patterns for p in tree[name][1]]:
        _check_regex(pattern, problems)
    for pattern in [*tree["optimizer.lr_multipliers"][1], *tree["init_from.rename"][1], *tree["mesh.rules"][1]]:
        _check_regex(pattern, problems)
    for pattern, factor in tree["optimizer.lr_multipliers"][1].items():
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            problems.append(f"optimizer.lr_multipliers.{pattern}: got {factor!r}, expected a number.")
    if not 0 <= (tree["ema"][1] or 0) < 1:
        problems.append(f"ema: got {tree['ema'][1]!r}, expected a decay in [0, 1).")
    batch, micro = tree["batch_size"][1], tree["accumulate"][1]
    if micro > 0 and batch % micro:
        problems.append(f"accumulate: batch_size {batch} cannot be cut into {micro} equal micro-batches.")
    problems.extend(_mesh_problems({name: tree[f"mesh.{name}"][1] for name in AXES}, tree))
    problems.extend(_warmup_problems(tree))
    metric = tree["checkpoint.metric"][1]
    evaluators = sorted({path.split(".")[1] for path in tree if path.startswith("evaluators.")})
    for name in set(evaluators) & set(fields.EVALUATORS_TAKEN):
        problems.append(f"evaluators.{name}: the name is taken, {name}/... are training's own numbers; call it otherwise.")
    _check_plugins(tree, problems)
    wrong = "\n".join(problems).replace("--config.", "")
    of_metric = rf"(?<![\w.])(evaluators\.{re.escape(metric.partition('/')[0])}|task)[.:]"
    if tree["checkpoint.keep_best"][1] and not re.search(of_metric, wrong):  # asked only of what is right in itself
        problems.extend(_best_problems(metric, tree))


def _mesh_problems(sizes: dict[str, int], tree: dict[str, tuple[Field, Any]]) -> list[str]:
    """Returns what is wrong with a mesh whatever the devices."""
    found = [
        f"mesh.{name}: got {size}, expected 1 or more, or -1: what is left." for name, size in sizes.items() if size < 1 and size != -1
    ]
    if len(free := [name for name, size in sizes.items() if size == -1]) > 1:
        found.append(f"mesh: {' and '.join(free)} are -1, what is left; only one can be.")
    for name in tree["mesh.across"][1]:
        if name not in AXES:
            found.append(f"mesh.across: {unknown('axis', name, AXES)}")
    length, context = tree["sequence_length"][1], sizes["context"]
    if context > 1 and length % context:
        found.append(f"sequence_length: {length} cannot be cut into mesh.context={context} equal pieces.")
    if tree["parallel"][1] == "pmap":
        if split := [f"{name}={size}" for name, size in sizes.items() if name != "data" and size != 1]:
            found.append(f'parallel="pmap" copies the model to every device: it knows mesh.data alone, got {", ".join(split)}. Use "jit".')
        if tree["mesh.zero1"][1]:
            found.append('mesh.zero1: parallel="pmap" keeps everything whole on every device. Use "jit".')
        if tree["compiler_options"][1]:
            found.append('compiler_options: jax.pmap takes none. Use parallel="jit".')
    return found


def _warmup_problems(tree: dict[str, tuple[Field, Any]]) -> list[str]:
    """Returns why a warm-up in steps or in per cent leaves nothing of the run; other units are counted when the data is there."""
    path = "schedule.kw.warmup"
    field, value = tree.get(path, (None, None))
    if field is None or not field.duration or not isinstance(value, str) or typed.problems(path, field, value):
        return []
    if "." in tree["schedule.name"][1]:  # a user's own, whose warm-up may mean something else
        return []
    number, unit = durations.parse(value)
    total = tree["total_steps"][1]
    if unit == "%" and number >= 100:
        return [f'{path}: got "{value}", expected less than 100%: a warm-up ends before the run does.']
    if unit == "steps" and isinstance(total, int) and number and number >= total > 0 and tree["total_epochs"][1] is None:
        return [f'{path}: a warm-up of "{value}" does not end within total_steps = {total}: make it shorter, such as "5%".']
    return []


def _best_problems(metric: str, tree: dict[str, tuple[Field, Any]]) -> list[str]:
    """Returns why no checkpoint would ever be the best by this number."""
    found = nested(tree)
    try:
        wrong = numbers.problem("checkpoint.metric", metric, found["evaluators"], found["task"], training=False)
    except UserError as error:  # a user's own function that fails
        return [str(error)]
    return [f"{wrong} Or set checkpoint.keep_best to 0."] if wrong else []


def _check_plugins(tree: dict[str, tuple[Field, Any]], problems: list[str]) -> None:
    """Lets each plug-in, nested ones too, check its own fields, where nothing is wrong with these one by one."""
    found = nested(tree)
    wrong = "\n".join(problems)
    length = tree["sequence_length"][1] if not re.search(r"(?<![\w.])sequence_length:", wrong) else None

    def right(path: str) -> bool:
        return not re.search(rf"(?<![\w.]){re.escape(path)}[.:]", wrong.replace("--config.", ""))

    def walk(path: str, node: Any, kind: str) -> None:
        if not isinstance(node, dict) or "kw" not in node:  # an optional one that is not there, or one that could not be completed
            return
        if right(path):
            problems.extend(f"{path}: {p}" for p in lookup.problems(kind, node["name"], node["kw"], length))
            if kind == "task" and right("model") and "kw" in found["model"]:
                problems.extend(f"{path}: {p}" for p in calls.problems(node, found["model"]))
        for key, field in lookup.fields(kind, node["name"]).items():
            if field.plugin:
                walk(f"{path}.kw.{key}", node["kw"].get(key), field.plugin)
            for entry in (node["kw"].get(key) or ()) if field.plugins else ():
                walk(f"{path}.kw.{key}.{entry}", node["kw"][key][entry], field.plugins)

    walk("optimizer", found["optimizer"], "optimizer")

    for name, field in fields.FIELDS.items():
        node = found
        for part in name.split("."):
            node = node.get(part)
        if field.plugin:
            walk(name, node, field.plugin)
        for entry in (node or ()) if field.plugins else ():
            walk(f"{name}.{entry}", node[entry], field.plugins)


def _check_regex(pattern: str, problems: list[str]) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        problems.append(f"pattern {pattern!r} is not a regular expression: {error}.")


def nested(tree: dict[str, tuple[Field, Any]]) -> dict:
    """Returns {dotted path: (field, value)} as nested dicts of values."""
    root: dict = {}
    for path, (_, value) in tree.items():
        node = root
        *parents, leaf = path.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        if not (isinstance(value, dict) and leaf in node):
            node[leaf] = value
    return root
