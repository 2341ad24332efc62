"""The parts of a report that look into a model: what it wrote, where it looks, what it confuses, how its layers move."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from decoder_lab.core import writer
from decoder_lab.report import chart
from decoder_lab.report.chart import Chart, Line
from decoder_lab.report.heat import MOST_SHOWN, heat
from decoder_lab.report.kinds import number as _float
from decoder_lab.report.markup import Html, fold, number, script_data, stepper, table, tag
from decoder_lab.report.run import Run

MOST_STATES = 12  # of a slider over steps
MOST_CELLS = 30_000  # cells, tokens, bars of one kind of detail over all runs and steps: 1 to 2.5 MB, half a second until the page opens
MOST_CHARACTERS = 6000  # of a sampled text
MOST_TEXTS = 300_000  # characters of all sampled texts of a report
NATS_AT_FULL = 8.0  # a token's loss at which its colour is strongest


def evenly(states: list[tuple[int, Any]], most: int = MOST_STATES) -> list[tuple[int, Any]]:
    """Returns at most so many of the states, the first and the last among them."""
    if len(states) <= most:
        return states
    return [states[i] for i in np.unique(np.linspace(0, len(states) - 1, max(most, 2)).round().astype(int))]


def texts(runs: list[Run]) -> list[Html]:
    """Returns every text that a run wrote, as it grew."""
    number_of = sum(len(run.samples) for run in runs) or 1
    states = max(2, min(MOST_STATES, MOST_TEXTS // (number_of * 1000)))
    made = []
    for run in runs:
        for name, found in sorted(run.samples.items()):
            shown = [(step, tag("pre", _cut(content))) for step, content in evenly(found, states)]
            few = f", {len(shown)} of {len(found)} steps" if len(shown) < len(found) else ""
            made.append(fold([tag("b", name), tag("span", f" {run.name}{few}", class_="dim")], stepper(shown, name), open_=len(made) < 4))
    return made


def _cut(content: str) -> str:
    return content if len(content) <= MOST_CHARACTERS else content[:MOST_CHARACTERS] + " ..."


def details(runs: list[Run], kind: str, draw: Callable[[dict], Html]) -> list[Html]:
    """Returns each detail of a kind over the steps of its run; of large ones fewer steps, the first and the last at least."""
    found = [(run, name, states) for run in runs for name, states in run.of_kind(kind).items()]
    cells = sum(CELLS[kind](states[-1][1]) for _, _, states in found)
    most = max(2, min(MOST_STATES, MOST_CELLS // max(cells, 1)))
    made = []
    for run, name, states in found:
        shown = [(step, draw(detail)) for step, detail in evenly(states, most)]
        few = f", {len(shown)} of {len(states)} steps" if len(shown) < len(states) else ""
        made.append(tag("div", tag("h3", name, tag("span", f" {run.name}{few}", class_="dim")), stepper(shown, name)))
    return made


def token_loss(detail: dict) -> Html:
    """Returns texts whose tokens are coloured by their loss."""
    made = []
    for found in detail["texts"]:
        losses = [_float(x) for x in found["losses"]]
        spans, joint = [], blank(found["tokens"])
        for token, loss in zip(found["tokens"], losses, strict=True):
            strength = 0.0 if loss is None else min(loss / NATS_AT_FULL, 1.0)
            said = "not predicted" if loss is None else f"{loss:.3f} nats, probability {math.exp(-loss):.2g}"
            written = token.replace("␣", " ").replace("⏎", "↵\n").replace("⇥", "\t")
            spans += [joint] * bool(spans)
            spans.append(tag("span", written, style=f"--v:{strength:.2f}", title=f"{token}: {said}"))
        known = [loss for loss in losses if loss is not None]
        mean = f"mean {number(sum(known) / len(known))} nats over {len(known)} tokens" if known else "nothing predicted"
        made.append(tag("div", tag("p", mean, class_="dim"), tag("p", spans, class_="tokens late")))
    scale = [tag("span", f" {nats} ", style=f"--v:{nats / NATS_AT_FULL}") for nats in (0, 2, 4, 6, 8)]
    return tag("div", tag("p", "nats: ", tag("span", scale, class_="tokens inline"), class_="dim"), made)


def blank(tokens: list[str]) -> str:
    """Returns what stands between two tokens: a blank where they are words, whose tokenizer has no blanks."""
    return " " if "␣" not in "".join(tokens) and any(token.isascii() and len(token) > 1 for token in tokens) else ""


def confusion(detail: dict) -> Html:
    """Returns a confusion matrix, each row shaded by the share of its examples."""
    sums = [sum(row) or 1 for row in detail["matrix"]]
    shown = heat(
        detail["labels"], detail["labels"], detail["matrix"], lambda n, i: n / sums[i], "truth ↓ said →", lambda n: f"{n:,}" if n else "·"
    )
    right = sum(row[i] for i, row in enumerate(detail["matrix"]))
    return tag("div", tag("p", f"{right:,} of {sum(map(sum, detail['matrix'])):,} right", class_="dim"), shown)


def transitions(detail: dict) -> Html:
    """Returns the scores of a CRF, with those of beginning and ending."""
    rows = [*detail["between"], detail["start"]]
    ends = [*detail["end"], None]
    values = [[*map(_float, row), _float(end)] for row, end in zip(rows, ends, strict=True)]
    most = max((abs(x) for row in values for x in row if x is not None), default=1.0) or 1.0
    return heat([*detail["labels"], "⊢ start"], [*detail["labels"], "end ⊣"], values, lambda x, i: x / most, "from ↓ to →")


def attention(found: dict, place: int) -> Html:
    """Returns one layer's weights as a table that the script changes to any layer and head; the last layer's mean stands there at first."""
    layer = found["layers"][-1]
    mean_TS = np.mean(np.asarray(layer["heads"], np.float64), axis=0)
    shown = heat(found["rows"], found["columns"], mean_TS.tolist(), lambda x, i: x, "looks ↓ at →", data_attention=str(place))
    data = tag("script", script_data(writer.plain({"layers": found["layers"]})), type="application/json", id=f"attention-{place}")
    about = layer["name"] + (f", mean of {len(layer['heads'])} heads" if len(layer["heads"]) > 1 else "")
    return tag("div", tag("p", found.get("text", "")), tag("p", about, class_="dim", data_about=place), shown, data)


def ranks(found: list[tuple[int, dict]]) -> Html:
    """Returns how many ranks each adapted matrix has in use over the steps."""
    states = evenly(found, 16)
    most, names = states[-1][1]["most"], states[-1][1]["groups"]
    same = [(step, dict(zip(detail["groups"], detail["ranks"], strict=True))) for step, detail in states]
    values = [[at.get(name) for _, at in same] for name in names]
    return heat(names, [f"{step:,}" for step, _ in states], values, lambda n, i: n / (most[i] or 1), "matrix ↓ step →", "{:.0f}".format)


def layers(detail: dict) -> Html:
    """Returns the norms of each layer as a table."""
    parts = [detail[part] for part in ("parameters", "gradients", "updates")]
    rows = [
        [name, *(number(_float(x)) for x in (p, g, u)), number(_ratio(u, p))]
        for name, p, g, u in zip(detail["groups"], *parts, strict=True)
    ]  # fmt: skip
    return table(["layer", "parameters", "gradients", "updates", "update / parameters"], rows)


def layer_charts(run: Run) -> list[Chart]:
    """Returns how the norms of a run's layers go: parameters, gradients, updates, and updates over parameters; [] of a single step."""
    made = []
    for name, found in run.of_kind("norms").items():
        if len(found) < 2:
            continue
        for part in ("parameters", "gradients", "updates"):
            made.append(_by_layer(f"norm of {part}", f"{name}, {run.name}", [(step, d["groups"], d[part]) for step, d in found]))
        ratios = [(step, d["groups"], [_ratio(u, p) for u, p in zip(d["updates"], d["parameters"], strict=True)]) for step, d in found]
        made.append(_by_layer("update / parameters", f"{name}, {run.name}", ratios))
    return made


def _ratio(update: Any, parameters: Any) -> float:
    update, parameters = _float(update), _float(parameters)
    return update / parameters if update is not None and parameters else math.nan


def _by_layer(title: str, about: str, states: list[tuple[int, list[str], list]]) -> Chart:
    """Returns a chart with a line for each layer, coloured by its depth."""
    names = list(dict.fromkeys(name for _, groups, _ in states for name in groups))
    lines = []
    for i, name in enumerate(names):
        points = [(step, values[groups.index(name)]) for step, groups, values in states if name in groups]
        series = np.array([s for s, _ in points], np.int64), np.array([v for _, v in points], np.float64)
        lines.append(Line(name, series, i, chart.depth_colour(i, len(names))))
    return Chart(title, lines, by_run=False, about=about)


def histograms(detail: dict) -> Html:
    """Returns the values of each layer's parameters as small pictures."""
    made = []
    for name, bins in detail["groups"].items():
        counts, edges = bins["counts"], bins["edges"]
        top, width = max(counts) or 1, 160 / len(counts)
        bars = [
            tag("rect", x=f"{i * width:.1f}", y=f"{50 - 48 * n / top:.1f}", width=f"{width:.1f}", height=f"{48 * n / top:.1f}")
            for i, n in enumerate(counts) if n
        ]  # fmt: skip
        about = f"{name}: {edges[0]:.3g} to {edges[-1]:.3g}"
        picture = tag("svg", bars, viewBox="0 0 160 50", role="img", aria_label=about, class_="bars")
        made.append(tag("figure", picture, tag("figcaption", tag("b", name), f" {edges[0]:.3g} … {edges[-1]:.3g}")))
    return tag("div", made, class_="small")


def _square(count: int) -> int:
    return min(count, MOST_SHOWN) ** 2


CELLS: dict[str, Callable[[dict], int]] = {  # of what a detail is drawn
    "token_loss": lambda detail: sum(len(text["tokens"]) for text in detail["texts"]),
    "confusion": lambda detail: _square(len(detail["labels"])),
    "transitions": lambda detail: _square(len(detail["labels"]) + 1),
    "histograms": lambda detail: sum(len(bins["counts"]) for bins in detail["groups"].values()),
    "attention": lambda detail: sum(len(layer["heads"]) for layer in detail["layers"]) * len(detail["rows"]) * len(detail["columns"]) // 4,
    "norms": lambda detail: 5 * len(detail["groups"]),
}
