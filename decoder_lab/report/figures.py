"""Single figures by name, fit for a paper: 5.5 inches wide, seeds as bands, the same file for the same runs. Matplotlib draws them.

Every number of metrics.jsonl is a figure, and "loss" (what the runs are judged by), "learning_rate", "throughput", "time" (where it went).
What a run knows of its inside is "layers/parameters", "layers/gradients", "layers/updates", "layers/ratio", "histograms", "confusion",
"transitions", "ranks", "token_loss", "attention": of several runs that of the first that has it, at its last step. Where a run has several
of a kind, "KIND/NAME" is each of them. "attention/LAYER" is the mean of a layer's heads, "attention/LAYER/HEAD" one of them.
"""

import dataclasses
import functools
import pathlib
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError, nearest
from decoder_lab.report import alignment, chart, inside, kinds, lines, numbers
from decoder_lab.report.groups import Group, banded, grouped
from decoder_lab.report.run import Run

WIDTH, HEIGHT = 5.5, 3.2
TYPED, LINE, FONT = 90, 0.15, 6.5  # of typed text: characters a line, inches a line, points
ALIASES = {"learning_rate": "train/lr", "throughput": "time/tokens_per_s"}
LAYERS = ("layers/parameters", "layers/gradients", "layers/updates", "layers/ratio")  # in the order of inside.layer_charts
States = list[tuple[int, dict]]  # a detail at the steps at which it was written
MOST_WRITTEN = 12  # rows of a matrix up to which its values stand in the cells


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that can be drawn: its function, the run that it shows (None: all of them), and whether it is listed."""

    draw: Callable[[], Any]
    run: Run | None = None
    listed: bool = True


def pictures(runs: list[Run]) -> dict[str, list[Picture]]:
    """Returns {name: what is drawn} of all figures that these runs have; of several runs one each where a figure is of one."""
    made: dict[str, list[Picture]] = {}
    groups, given = grouped(runs), sorted({name for run in runs for name in run.numbers})
    aliases = {alias: name for alias, name in ALIASES.items() if name in given}
    judged = next((found for run in runs if (found := numbers.main_metric(run))), None)
    for name, number in {**aliases, **({"loss": judged} if judged else {}), **dict(zip(given, given, strict=True))}.items():
        made[name] = [Picture(functools.partial(_lines, groups, number))]
    if any(map(numbers.time_parts, groups)):
        made["time"] = [Picture(functools.partial(_time, groups))]
    for run in runs:
        for name, chart_ in zip(LAYERS, inside.layer_charts(run), strict=False):
            made.setdefault(name, []).append(Picture(functools.partial(_layers, chart_), run))
    for run in sorted(runs, key=lambda run: run.attention is None):
        for name, draw, listed in _of_details(run):
            made.setdefault(name, []).append(Picture(draw, run, listed))
    return made


def _of_details(run: Run) -> Iterator[tuple[str, Callable[[], Any], bool]]:
    """Yields (name, function, whether it is listed) of what a run knows of its inside."""
    for kind, draw in DRAWN.items():
        found = run.of_kind(kind)
        for place, (name, states) in enumerate(found.items()):
            for called in ([kind] if not place else []) + ([f"{kind}/{name}"] if len(found) > 1 else []):
                yield called, functools.partial(draw, states), True
    maps = {name: states[-1][1] for name, states in run.of_kind("attention").items()}
    maps = ({"": run.attention} if run.attention else {}) | maps
    for place, (name, detail) in enumerate(maps.items()):
        for called in (["attention"] if not place else []) + ([f"attention/{name}"] if name and len(maps) > 1 else []):
            yield called, functools.partial(_attention, detail, detail["layers"][-1]), True
            for layer in detail["layers"]:
                yield f"{called}/{layer['name']}", functools.partial(_attention, detail, layer), True
                for head in range(len(layer["heads"])):
                    yield f"{called}/{layer['name']}/{head}", functools.partial(_attention, detail, layer, head), False


def names(runs: list[Run]) -> list[str]:
    """Returns the figures that these runs have, single heads of attention left out."""
    given = {name for run in runs for name in run.numbers}
    return sorted((name for name, found in pictures(runs).items() if found[0].listed), key=lambda name: (name in given, name))


def save(name: str, runs: list[Run], path: pathlib.Path) -> list[Run]:
    """Draws one figure into a file, whose ending says the format; returns the runs that have it, where it is of the first of them only.

    Errors: UserError for a name that there is not.
    """
    made = pictures(runs)
    if name not in made:
        listed = ", ".join(names(runs)) or "none, as the runs have no numbers yet"
        raise UserError(f"--figure: {name!r} is not known.{nearest(name, made)} These runs have: {listed}.")
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "axes.linewidth": 0.7, "lines.linewidth": 1.3, "svg.hashsalt": "decoder_lab"}):
        figure = made[name][0].draw()
        path.parent.mkdir(parents=True, exist_ok=True)
        undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
        figure.savefig(path, dpi=200, metadata=undated)
    return [picture.run for picture in made[name] if picture.run]


def _figure(width: float = WIDTH, height: float = HEIGHT, panels: tuple[int, int] = (1, 1)) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*panels)


def _lines(groups: list[Group], name: str) -> Any:
    """Draws one number of all runs, those that differ in a seed together."""
    arms = []
    for group in groups:
        whole, others = banded(group.runs, name)
        if count := len(whole) + len(others):
            said = f" ({count} seeds)" if not others else f" ({len(whole)} of {count} seeds)"
            series = ([run.numbers[name] for run in part] for part in (whole, others))
            arms.append(lines.Arm(group.label + (said if count > 1 else ""), *series))
    figure, axes = _figure()
    lines.draw(axes, arms)
    axes.set(xlabel="optimiser step", ylabel=name)
    _finish(axes, len(arms))
    return figure


def _finish(axes: Any, count: int) -> None:
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if count > 1:
        inside_it = count <= 6
        axes.legend(frameon=False, fontsize=8, **({} if inside_it else dict(loc="upper left", bbox_to_anchor=(1.0, 1.0))))


def _layers(made: chart.Chart) -> Any:
    """Draws a line for each layer, coloured by its depth."""
    import matplotlib

    figure, axes = _figure()
    scale = matplotlib.colormaps["viridis"]
    for i, line in enumerate(made.lines):
        axes.plot(*line.series, color=scale(i / max(len(made.lines), 2)), label=line.label)
    axes.set_yscale("log", nonpositive="mask")  # no update, where the rate begins at 0
    axes.set(xlabel="optimiser step", ylabel=made.title)
    _finish(axes, 99)
    return figure


def _matrix(
    rows: list[str], columns: list[str], values: np.ndarray, scale: str, limits: tuple[float, float], labels: tuple[str, str]
) -> Any:
    """Draws a matrix with its names, and its values where there are few."""
    figure, axes = _figure(max(3.0, 0.24 * len(columns) + 1.8), max(2.4, 0.24 * len(rows) + 1.4))
    picture = axes.imshow(values, cmap=scale, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set(ylabel=labels[0], xlabel=labels[1])
    if len(rows) <= MOST_WRITTEN:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = np.dot(picture.cmap(picture.norm(value))[:3], (0.3, 0.6, 0.1)) < 0.5
                axes.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=6, color="white" if dark else "black")
    figure.colorbar(picture, ax=axes, shrink=0.8)
    return figure


def _confusion(states: States) -> Any:
    detail = states[-1][1]
    matrix = np.asarray(detail["matrix"], np.float64)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return _matrix(detail["labels"], detail["labels"], shares, "Blues", (0.0, 1.0), ("truth", "prediction (share of the truth)"))


def _transitions(states: States) -> Any:
    detail = states[-1][1]
    values = np.asarray(detail["between"], np.float64)
    most = float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values))) or 1.0
    return _matrix(detail["labels"], detail["labels"], values, "RdBu_r", (-most, most), ("from", "to"))


def _ranks(states: States) -> Any:
    last, steps = states[-1][1], [f"{step:,}" for step, _ in states]
    values = np.asarray([detail["ranks"] for _, detail in states], np.float64).T
    return _matrix(last["groups"], steps, values, "viridis", (0.0, float(max(last["most"]))), ("matrix", "optimiser step"))


def _attention(detail: dict, layer: dict, head: int | None = None) -> Any:
    """Draws where a layer looks: the mean of its heads, or one of them."""
    weights_NTS = np.asarray(layer["heads"], np.float64)
    shown_TS, of = (weights_NTS.mean(axis=0), "") if head is None else (weights_NTS[head], f", head {head}")
    return _matrix(detail["rows"], detail["columns"], shown_TS, "magma_r", (0.0, 1.0), (f"{layer['name']}{of}: looks", "at"))


def _time(groups: list[Group]) -> Any:
    """Draws a bar for each group of runs, of the seconds that each thing took."""
    found = {group.label: parts for group in groups if (parts := numbers.time_parts(group))}
    labels = [label for label in (*numbers.SHARES.values(), *numbers.BESIDE.values()) if any(label in parts for parts in found.values())]
    figure, axes = _figure(height=0.9 + 0.3 * len(found))
    ends = np.zeros(len(found))
    for i, label in enumerate(labels):
        widths = np.array([parts.get(label, 0.0) for parts in found.values()])
        axes.barh(range(len(found)), widths, left=ends, height=0.7, color=lines.COLOURS[i % len(lines.COLOURS)], label=label)
        ends += widths
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set(xlabel="seconds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=7)
    return figure


def _histograms(states: States) -> Any:
    """Draws the values of each layer's parameters, four layers beside each other."""
    groups = states[-1][1]["groups"]
    rows = -(-len(groups) // 4)
    figure, axes = _figure(height=0.3 + 1.1 * rows, panels=(rows, 4))
    for panel, (name, bins) in zip(axes.flat, groups.items(), strict=False):
        panel.stairs(bins["counts"], bins["edges"], fill=True, color=lines.BLUE)
        panel.set_title(name if len(name) <= 24 else f"…{name[-23:]}", fontsize=6)
        panel.tick_params(labelsize=6)
        panel.set_yticks([])
        panel.spines[["top", "right", "left"]].set_visible(False)
    for panel in axes.flat[len(groups) :]:
        panel.set_axis_off()
    return figure


def _token_loss(states: States) -> Any:
    """Draws texts as they would be typed, each token on a ground that is the darker the higher its loss."""
    import matplotlib

    placed, row = [], 0
    for text in states[-1][1]["texts"]:
        column, joint = 0, inside.blank(text["tokens"])
        for token, loss in zip(text["tokens"], text["losses"], strict=True):
            written = token.replace("␣", " ").replace("⏎", "↵").replace("⇥", "    ") + joint
            size = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in written)
            if column and column + size > TYPED:
                row, column = row + 1, 0
            placed.append((row, column, size, written, kinds.number(loss)))
            row, column = (row + 1, 0) if "↵" in written else (row, column + size)
        row += 2
    figure, axes = _figure(height=0.6 + LINE * row)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0.0, inside.NATS_AT_FULL), "Reds")
    for row_, column, size, written, loss in placed:
        if loss is not None:
            axes.add_patch(matplotlib.patches.Rectangle((column, row_), size, 1, color=scale.to_rgba(loss), linewidth=0))
        light = loss is not None and loss > 0.7 * inside.NATS_AT_FULL
        look = dict(fontsize=FONT, family=["DejaVu Sans Mono", *alignment.cjk_fonts()], va="center", parse_math=False)
        axes.text(column, row_ + 0.5, written, color="white" if light else "black", **look)
    axes.set(xlim=(0, TYPED), ylim=(row, 0))
    axes.set_axis_off()
    figure.colorbar(scale, ax=axes, orientation="horizontal", label="nats", aspect=60, fraction=0.05)
    return figure


DRAWN: dict[str, Callable[[States], Any]] = {
    "token_loss": _token_loss,
    "histograms": _histograms,
    "confusion": _confusion,
    "transitions": _transitions,
    "ranks": _ranks,
}
