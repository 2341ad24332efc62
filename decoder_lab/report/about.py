"""The parts of a report that say what the runs are: a card of each, its settings, and what differs between them."""

import json
from typing import Any

from decoder_lab.report.groups import Group, differing, is_seed
from decoder_lab.report.markup import Html, fold, number, table, tag
from decoder_lab.report.numbers import duration, main_metric
from decoder_lab.report.run import NONE, Run

MOST_DIFFERENCES = 24  # in one table, if some of them are settings that not all runs have


def card(group: Group) -> Html:
    """Returns what a model is, what it learned from, how, and what came of it: facts of the run's folder, nothing else."""
    run = group.runs[0]
    of = run.settings.get
    adapter = of("adapt.name")
    steps, batch, length = run.last_step, of("batch_size"), of("sequence_length")
    seen = f"{steps:,} steps of {batch} x {length} tokens" if None not in (steps, batch, length) else None
    facts = {
        "task": of("task.name"),
        "architecture": _named(run, "model"),
        "sizes": _sizes(run, "model.kw."),
        "trained parameters": _parameters(run),
        "adapter": f"{adapter}: {_sizes(run, 'adapt.kw.')}" if adapter else None,
        "begins with": of("init_from.workdir") or None,
        "data": f"{of('data.source.name')}: {_sizes(run, 'data.source.kw.')}".rstrip(": ") if of("data.source.name") else None,
        "tokenizer": f"{of('data.tokenizer.name')}: {_sizes(run, 'data.tokenizer.kw.')}".rstrip(": ")
        if of("data.tokenizer.name")
        else None,
        "training": seen,
        "optimiser": _optimiser(run),
        "compute dtype": of("dtype"),
        "seeds": ", ".join(str(r.settings.get("seed")) for r in group.runs) if run.settings else None,
        "result": _result(run),
        "time in steps": duration(run.training_seconds) if run.training_seconds else None,
        **_origin(run),
        "folder": ", ".join(str(r.path) for r in group.runs),
        "not readable": "; ".join(line for r in group.runs for line in r.trouble) or None,
    }
    rows = [(tag("dt", name), tag("dd", value)) for name, value in facts.items() if value]
    return tag("article", tag("h3", group.label), tag("dl", rows), class_="card")


def _named(run: Run, kind: str) -> str | None:
    name, variant = run.settings.get(f"{kind}.name"), run.settings.get(f"{kind}.kw.variant")
    return f"{name}, {variant}" if name and variant else name


def _parameters(run: Run) -> str | None:
    total = run.meta.get("num_parameters")
    return number(run.parameters) + (f" of {total:,}" if total and total != run.parameters else "") if run.parameters else None


def _sizes(run: Run, prefix: str) -> str:
    """Returns the settings of a plug-in that are numbers above 0 or names, without those that are switched off."""
    shown = []
    for name, value in run.settings.items():
        if name.startswith(prefix) and value not in ("", False, 0, 0.0, NONE, "[]", "{}"):
            shown.append(f"{name.removeprefix(prefix).replace('.kw.', '.')} {value}")
    return ", ".join(shown)


def _optimiser(run: Run) -> str | None:
    of = run.settings.get
    if not of("optimizer.name"):
        return None
    return f"{of('optimizer.name')}, peak learning rate {of('lr')}, schedule {of('schedule.name')}, weight decay {of('weight_decay')}"


def _result(run: Run) -> str | None:
    name = main_metric(run)
    return f"{name} {number(run.last(name))} at step {int(run.numbers[name][0][-1]):,}" if name else None


def _origin(run: Run) -> dict[str, str | None]:
    """Returns when, where, by which code and how a run was made, as its history says."""
    if not run.history:
        return {"command": None}
    first, last = run.history[0], run.history[-1]
    versions = ", ".join(f"{name} {version}" for name, version in (last.get("versions") or {}).items() if version)
    more = f", gone on with {len(run.history) - 1} times, last {last.get('time')}" if len(run.history) > 1 else ""
    return {
        "begun": f"{first.get('time')} on {first.get('host')}{more}",
        "code": last.get("git"),
        "versions": f"Python {last.get('python')}, {versions}",
        "command": last.get("command"),
    }


def differences(groups: list[Group]) -> list[Html]:
    """Returns tables of the settings that differ between groups, seeds apart: those that all have, then, folded, the others; or []."""
    firsts = [group.runs[0] for group in groups]
    found = {name: values for name, values in differing(firsts).items() if not is_seed(name)}
    known = [run for run in firsts if run.settings]
    everywhere = {k: v for k, v in found.items() if _chooses(k) or all(k in run.settings for run in known)}
    others = {name: values for name, values in found.items() if name not in everywhere}
    if len(everywhere) + len(others) <= MOST_DIFFERENCES:
        everywhere, others = found, {}
    made = [_differences(groups, everywhere)] if everywhere else []
    if others:
        title = f"{len(others)} settings that only some of the runs have"
        made.append(fold(title, _differences(groups, others)))
    return made


def _chooses(name: str) -> bool:
    """Whether a setting is the choice of a part of the model or its training, which a run without that part lacks."""
    return name.endswith(".name") and not name.startswith(("evaluators.", "log."))


def _differences(groups: list[Group], found: dict[str, list[Any]]) -> Html:
    """Returns a table whose longer side runs down."""
    labels = [group.label for group in groups]
    if len(groups) <= len(found):
        return table(["setting", *labels], [[name, *map(value_text, values)] for name, values in found.items()], numbers_from=99)
    rows = [[label, *(value_text(values[i]) for values in found.values())] for i, label in enumerate(labels)]
    return table(["run", *found], rows, numbers_from=99)


def value_text(value: Any) -> str:
    """Returns a setting as a table shows it; one that a run does not have as a dash."""
    if value is None:
        return "–"
    return "none" if value == NONE else value if isinstance(value, str) else json.dumps(value)


def settings(groups: list[Group]) -> list[Html]:
    """Returns all settings of each group, folded."""
    made = []
    for group in groups:
        run = group.runs[0]
        if run.settings:
            rows = [[name, value_text(value)] for name, value in run.settings.items()]
            made.append(fold(f"{group.label}: all {len(rows)} settings", table(["setting", "value"], rows, numbers_from=99)))
    return made
