"""A report: one HTML file that needs nothing but itself. Parts are there where a run has data for them; the end says where more is had."""

import base64
import dataclasses
import hashlib
import importlib.resources
import itertools
import json
import shlex
import time
from collections.abc import Callable

from decoder_lab import __version__
from decoder_lab.report import about, chart, inside, numbers
from decoder_lab.report.chart import Chart
from decoder_lab.report.groups import Group, grouped
from decoder_lab.report.markup import Html, fold, script_data, tag
from decoder_lab.report.run import Run

MOST_BYTES = 7e6  # of all points together
BYTES_A_COLUMN = 48  # of one line: two exact points and a mean, in base64
FEWEST_COLUMNS, MOST_COLUMNS = 60, 700
WRITES = ("language_modeling", "prefix_language_modeling", "sequence_to_sequence", "instruction")  # tasks with a loss at each token
MOST_OPEN = 6  # model cards; more are folded
MOST_INSIDE = 6  # runs that are looked into, one of each group
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; connect-src {}"


@dataclasses.dataclass
class Part:
    """One part of a report: its title, what stands in it, and charts below that."""

    title: str
    content: list[Html]
    charts: list[Chart] = dataclasses.field(default_factory=list)


def page(runs: list[Run], title: str = "", live: bool = False) -> str:
    """Returns the report of some runs.

    title: the page's; "": the run's name, or how many runs there are.
    live: whether the page asks its server for news (`report/watch.py`).
    """
    groups = grouped(runs)
    title = title or (runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    parts = [part for part in _parts(runs, groups) if part.content or part.charts]
    drawn = [made for part in parts for made in part.charts]
    lines = sum(len(made.lines) for made in drawn) or 1
    columns = int(max(FEWEST_COLUMNS, min(MOST_COLUMNS, MOST_BYTES / BYTES_A_COLUMN / lines)))
    data = {
        "charts": [chart.data(made, columns) for made in drawn],
        "groups": [{"l": g.label, "c": chart.colour(i, len(groups)), "n": len(g.runs)} for i, g in enumerate(groups)],
        "live": live,
    }
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    place, sections = 0, []
    for number, part in enumerate(parts):
        figures = [chart.figure(made, place + i) for i, made in enumerate(part.charts)]
        place += len(figures)
        grid = tag("div", figures, class_="charts") if figures else ""
        sections.append(tag("section", tag("h2", part.title), part.content, grid, id=f"part-{number}"))
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY.format(digest, "'self'" if live else "'none'")),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_asset("report.css"))),
    ]
    made_at = f"decoder_lab {__version__}, {time.strftime('%Y-%m-%d %H:%M')}"
    body = [
        tag("a", "to the content", href="#content", class_="skip"),
        tag("header", tag("h1", title), tag("p", made_at, class_="dim"), tag("div", id="status", role="status")),
        tag("nav", [tag("a", part.title, href=f"#part-{i}") for i, part in enumerate(parts)], aria_label="parts"),
        tag("div", id="tools"),
        tag("main", sections, id="content"),
        tag("script", script_data(data), type="application/json", id="data"),
        tag("script", Html(script)),
    ]
    return "<!doctype html>\n" + tag("html", tag("head", head), tag("body", body), lang="en")


def _asset(name: str) -> str:
    return importlib.resources.files("decoder_lab.report").joinpath("assets", name).read_text(encoding="utf-8")


def _parts(runs: list[Run], groups: list[Group]) -> list[Part]:
    """Returns all parts in their order; one without content is left out of the page."""
    curves, beside, speed = numbers.curve_names(runs)
    judged = tuple(name for run in runs if (name := numbers.main_metric(run)))[:1]
    places = itertools.count()
    looks = [
        tag("div", tag("h3", run.name), inside.attention(run.attention, next(places)))
        for run in _some(groups, lambda run: run.attention is not None)
    ]
    looks += _details(groups, "attention", lambda detail: inside.attention(detail, next(places)))
    used = [
        tag("div", tag("h3", name, tag("span", f" {run.name}", class_="dim")), inside.ranks(found))
        for run in _some(groups, lambda run: bool(run.of_kind("ranks")))
        for name, found in run.of_kind("ranks").items()
    ]
    moved = _some(groups, lambda run: bool(run.of_kind("norms")))
    layers = [made for run in moved for made in inside.layer_charts(run)]
    tables = inside.details(moved, "norms", inside.layers)
    tables = [fold("the norms as numbers", *tables)] if layers else tables
    broken = [tag("p", f"{run.name}: {line}", class_="trouble") for run in runs for line in run.trouble]
    differ = about.differences(groups)
    one = [tag("p", "Runs differ in nothing but their seeds.")] if len(groups) == 1 and len(runs) > 1 else []
    return [
        Part("Summary", [*broken, numbers.summary(groups)]),
        Part("What differs", differ or one),
        Part("Curves", [], numbers.charts(groups, curves, wide=judged)),
        Part("Learning rate", [], numbers.charts(groups, beside)),
        Part("Where time goes", numbers.time_shares(groups), numbers.charts(groups, speed)),
        Part("Evaluations", [*numbers.evaluations(groups), *_evaluated(runs)]),
        Part("Texts", inside.texts(runs)),
        Part("Loss of each token", _details(groups, "token_loss", inside.token_loss)),
        Part("Attention", looks),
        Part("Confusions", _details(groups, "confusion", inside.confusion)),
        Part("CRF transitions", _details(groups, "transitions", inside.transitions)),
        Part("Adapter ranks", used),
        Part("Layers", [*_details(groups, "histograms", inside.histograms), *tables], layers),
        Part("Model cards", [about.card(group) if len(groups) <= MOST_OPEN else fold(group.label, about.card(group)) for group in groups]),
        Part("Settings", about.settings(groups)),
        Part("What else can be had", missing([group.runs[0] for group in groups])),
    ]


def _some(groups: list[Group], has: Callable[[Run], bool]) -> list[Run]:
    """Returns the first run of each group that has something, a few at most: the inside of every run would be too much to read."""
    firsts = [next((run for run in group.runs if has(run)), None) for group in groups]
    return [run for run in firsts if run is not None][:MOST_INSIDE]


def _details(groups: list[Group], kind: str, draw: Callable[[dict], Html]) -> list[Html]:
    return inside.details(_some(groups, lambda run: bool(run.of_kind(kind))), kind, draw)


def _evaluated(runs: list[Run]) -> list[Html]:
    """Returns what the last `--mode=evaluate` of each run gave."""
    made = []
    for run in runs:
        found = {k: v for k, v in run.evaluation.items() if k not in ("step", "checkpoint")}
        if not found:
            continue
        rows = [[k, tag("span", numbers.number(v), title=repr(v), data_value=repr(v))] for k, v in found.items() if not isinstance(v, str)]
        said = [tag("div", tag("h4", k), tag("pre", v)) for k, v in found.items() if isinstance(v, str)]
        title = tag("h3", "--mode=evaluate", tag("span", f" {run.name}, step {run.evaluation.get('step')}", class_="dim"))
        made.append(tag("div", title, numbers.table(["number", "value"], rows) if rows else "", said))
    return made


def missing(runs: list[Run]) -> list[Html]:
    """Returns what a run could show and does not, with the command, or the line of its config, that brings it."""
    lines = []
    for run in runs[:MOST_INSIDE]:
        of, kinds = run.settings.get, {d["kind"] for found in run.details.values() for _, d in found[:1] if "kind" in d}
        task, folder = of("task.name", ""), shlex.quote(str(run.path))
        writes = task in WRITES
        wanted = {
            "token_loss": writes,
            "confusion": task in ("classification", "tagging", "intent_slots"),
            "transitions": str(of("model.kw.crf")) == "True",
            "norms": bool(run.settings),
        }
        names = {"token_loss": "token_loss", "transitions": "crf_transitions", "norms": "parameter_norms"}
        names["confusion"] = "classification_report" if task == "classification" else "span_f1"
        lacking = [names[kind] for kind, can in wanted.items() if can and kind not in kinds]
        if lacking:
            chosen = " ".join(f"--evaluator={name}" for name in lacking)
            lines.append((", ".join(lacking), f"python -m decoder_lab.main --mode=evaluate --workdir={folder} {chosen}"))
        if of("adapt.name") == "adalora" and "ranks" not in kinds:
            lines.append(
                ("adapter ranks over time", 'in the config: evaluators=dict(ranks=dict(name="adapter_ranks", every="5%", kw={}), ...)')
            )
        if writes and run.attention is None and "attention" not in kinds:
            lines.append(("attention", f'python -m decoder_lab.report {folder} --attention "..."'))
    if not lines:
        return []
    over = "Over time: name the evaluator in the config, such as "
    example = json.dumps(dict(name="parameter_norms", every="5%", kw={}))
    return [
        tag("ul", [tag("li", name, ": ", tag("code", command)) for name, command in dict.fromkeys(lines)]),
        tag("p", over, tag("code", f'evaluators["norms"] = {example}'), ".", class_="dim"),
    ]
