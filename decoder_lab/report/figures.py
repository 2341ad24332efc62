"""Single figures by name, fit for a paper: 5.5 inches wide, seeds as bands, the same file for the same runs. Matplotlib draws them.

Every number of metrics.jsonl is a figure, and "loss" (what the runs are judged by), "learning_rate", "throughput", "time" (where it went);
of what a run knows of its inside "layers/parameters", "layers/gradients", "layers/updates", "layers/ratio", "histograms", "confusion",
"transitions", "ranks", "token_loss", "attention".
"""

import pathlib
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError, nearest
from decoder_lab.report import alignment, chart, inside, kinds, numbers, plots
from decoder_lab.report.groups import Group, banded, grouped
from decoder_lab.report.run import Run, Series

WIDTH, HEIGHT = 5.5, 3.2
THIN = 0.6  # points
TYPED, LINE, FONT = 90, 0.15, 6.5  # of typed text: characters a line, inches a line, points
SMOOTH_FROM = 200  # points of a line from which a smoothed one is drawn over it
ALIASES = {"learning_rate": "train/lr", "throughput": "time/tokens_per_s"}
LAYERS = {"layers/parameters": 0, "layers/gradients": 1, "layers/updates": 2, "layers/ratio": 3}
MOST_WRITTEN = 12  # rows of a matrix up to which its values stand in the cells


def names(runs: list[Run]) -> list[str]:
    """Returns the figures that these runs have."""
    lines = sorted({name for run in runs for name in run.numbers})
    found = [alias for alias, name in ALIASES.items() if name in lines]
    found += ["loss"] if any(numbers.main_metric(run) for run in runs) else []
    found += [name for name in LAYERS if any(inside.layer_charts(run) for run in runs)]
    found += [kind for kind in DRAWN if any(run.of_kind(kind) or (kind == "attention" and run.attention) for run in runs)]
    found += ["time"] if any(map(numbers.time_parts, grouped(runs))) else []
    return sorted(found) + lines


def save(name: str, runs: list[Run], path: pathlib.Path) -> pathlib.Path:
    """Draws one figure into a file, whose ending says the format; returns the path. Errors: UserError for a name that there is not."""
    known = names(runs)
    if name not in known:
        listed = ", ".join(known) or "none, as the runs have no numbers yet"
        raise UserError(f"--figure: {name!r} is not known.{nearest(name, known)} These runs have: {listed}.")
    import matplotlib

    with matplotlib.rc_context({"font.size": 9, "axes.linewidth": 0.7, "lines.linewidth": 1.3, "svg.hashsalt": "decoder_lab"}):
        if name in LAYERS:
            run = next(run for run in runs if inside.layer_charts(run))
            figure = _layers(inside.layer_charts(run)[LAYERS[name]])
        elif name in DRAWN:
            figure = DRAWN[name](runs)
        else:
            judged = next((found for run in runs if (found := numbers.main_metric(run))), "")
            figure = _lines(grouped(runs), judged if name == "loss" else ALIASES.get(name, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
        figure.savefig(path, dpi=200, metadata=undated)
    return path


def _figure(width: float = WIDTH, height: float = HEIGHT, panels: tuple[int, int] = (1, 1)) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*panels)


def _lines(groups: list[Group], name: str) -> Any:
    """Draws one number of all runs; of runs that differ in a seed the mean, and a band from the lowest to the highest.

    A seed that diverged or stopped on the way is a thin line beside the band, with a cross where it left the numbers.
    """
    figure, axes = _figure()
    place = 0
    for group in groups:
        whole, others = banded(group.runs, name)
        if not whole and not others:
            continue
        look = dict(
            color=plots.COLOURS[place % len(plots.COLOURS)], linestyle=plots.STYLES[place // len(plots.COLOURS) % len(plots.STYLES)]
        )
        place += 1
        count = len(whole) + len(others)
        said = f" ({count} seeds)" if not others else f" ({len(whole)} of {count} seeds)"
        axes.plot([], [], label=group.label + (said if count > 1 else ""), **look)
        for run in others:
            _apart(axes, *run.numbers[name], look | ({"linewidth": THIN} if count > 1 else {}))
        if len(whole) > 1:
            steps, mean, low, high = band([run.numbers[name] for run in whole])
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.2, linewidth=0)
            axes.plot(steps, mean, **look)
        elif whole:
            _single(axes, *whole[0].numbers[name], look)
    plots.focus(axes)
    axes.set(xlabel="optimiser step", ylabel=name)
    _finish(axes, place)
    return figure


def _single(axes: Any, steps: np.ndarray, values: np.ndarray, look: dict[str, Any]) -> None:
    """Draws one line; a long one as it is, faint, and smoothed."""
    if len(steps) > SMOOTH_FROM:
        axes.plot(steps, values, color=look["color"], alpha=0.25, linewidth=THIN)
        values = plots.sweeps.smooth(values, 0.04)
    axes.plot(steps, values, marker="o" if len(steps) <= 30 else None, markersize=2.5, **look)


def _apart(axes: Any, steps: np.ndarray, values: np.ndarray, look: dict[str, Any]) -> None:
    """Draws one line as it is, and a cross at its last finite value where others follow."""
    axes.plot(steps, values, **look)
    fine = np.flatnonzero(np.isfinite(values))
    if len(fine) and fine[-1] + 1 < len(values):
        axes.plot(steps[fine[-1]], values[fine[-1]], marker="x", color=look["color"], linestyle="none")


def band(found: list[Series]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (steps, mean, lowest, highest) of several series, at the steps that all of them reach; values between points are linear.

    Where one is not finite the others count, as long as there are any.
    """
    first, last = max(steps[0] for steps, _ in found), min(steps[-1] for steps, _ in found)
    steps = np.unique(np.concatenate([steps for steps, _ in found]))
    steps = steps[(steps >= first) & (steps <= last)]
    values = np.stack([np.interp(steps, *series) for series in found])
    steps, values = steps[np.isfinite(values).any(axis=0)], values[:, np.isfinite(values).any(axis=0)]
    values = np.where(np.isfinite(values), values, np.nan)
    return steps, np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0)


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
    axes.set_yscale("log")
    axes.set(xlabel="optimiser step", ylabel=made.title)
    _finish(axes, 99)
    return figure


def _last(runs: list[Run], kind: str) -> dict:
    """Returns the newest detail of a kind, of the first run that has one."""
    return next(found[-1][1] for run in runs for found in run.of_kind(kind).values())


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


def _confusion(runs: list[Run]) -> Any:
    detail = _last(runs, "confusion")
    matrix = np.asarray(detail["matrix"], np.float64)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return _matrix(detail["labels"], detail["labels"], shares, "Blues", (0.0, 1.0), ("truth", "prediction (share of the truth)"))


def _transitions(runs: list[Run]) -> Any:
    detail = _last(runs, "transitions")
    values = np.asarray(detail["between"], np.float64)
    most = float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values))) or 1.0
    return _matrix(detail["labels"], detail["labels"], values, "RdBu_r", (-most, most), ("from", "to"))


def _ranks(runs: list[Run]) -> Any:
    found = next(found for run in runs for found in run.of_kind("ranks").values())
    values = np.asarray([detail["ranks"] for _, detail in found], np.float64).T
    steps = [f"{step:,}" for step, _ in found]
    return _matrix(found[-1][1]["groups"], steps, values, "viridis", (0.0, float(max(found[-1][1]["most"]))), ("matrix", "optimiser step"))


def _attention(runs: list[Run]) -> Any:
    found = next((run.attention for run in runs if run.attention), None) or _last(runs, "attention")
    layer = found["layers"][-1]
    mean = np.mean(np.asarray(layer["heads"], np.float64), axis=0)
    return _matrix(found["rows"], found["columns"], mean, "magma_r", (0.0, 1.0), (f"{layer['name']}: looks", "at"))


def _time(runs: list[Run]) -> Any:
    """Draws a bar for each group of runs, of the seconds that each thing took."""
    found = {group.label: parts for group in grouped(runs) if (parts := numbers.time_parts(group))}
    labels = [label for label in (*numbers.SHARES.values(), *numbers.BESIDE.values()) if any(label in parts for parts in found.values())]
    figure, axes = _figure(height=0.9 + 0.3 * len(found))
    ends = np.zeros(len(found))
    for i, label in enumerate(labels):
        widths = np.array([parts.get(label, 0.0) for parts in found.values()])
        axes.barh(range(len(found)), widths, left=ends, height=0.7, color=plots.COLOURS[i % len(plots.COLOURS)], label=label)
        ends += widths
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set(xlabel="seconds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=7)
    return figure


def _histograms(runs: list[Run]) -> Any:
    """Draws the values of each layer's parameters, four layers beside each other."""
    groups = _last(runs, "histograms")["groups"]
    rows = -(-len(groups) // 4)
    figure, axes = _figure(height=0.3 + 1.1 * rows, panels=(rows, 4))
    for panel, (name, bins) in zip(axes.flat, groups.items(), strict=False):
        panel.stairs(bins["counts"], bins["edges"], fill=True, color=plots.BLUE)
        panel.set_title(name if len(name) <= 24 else f"…{name[-23:]}", fontsize=6)
        panel.tick_params(labelsize=6)
        panel.set_yticks([])
        panel.spines[["top", "right", "left"]].set_visible(False)
    for panel in axes.flat[len(groups) :]:
        panel.set_axis_off()
    return figure


def _token_loss(runs: list[Run]) -> Any:
    """Draws texts as they would be typed, each token on a ground that is the darker the higher its loss."""
    import matplotlib

    placed, row = [], 0
    for text in _last(runs, "token_loss")["texts"]:
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


DRAWN: dict[str, Callable[[list[Run]], Any]] = {
    "token_loss": _token_loss,
    "histograms": _histograms,
    "time": _time,
    "confusion": _confusion,
    "transitions": _transitions,
    "ranks": _ranks,
    "attention": _attention,
}
