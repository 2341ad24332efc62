"""Pictures of schedules and runs (PNG). Matplotlib is imported when something is drawn, without a display.

Runs are read from `metrics.jsonl`: one JSON object a line, with "step" and any of "train/loss", "train/lr", "<evaluator>/loss", ...
Losses are as the tasks give them, mostly in nats. How lines look is said in `lines.py`.
"""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.core.writer import jsonl
from decoder_lab.optim import range_test as sweeps
from decoder_lab.report import lines
from decoder_lab.report.lines import BLACK, BLUE, COLOURS, RED

MOST_POINTS = 2000


def schedule_figure(schedules: Mapping[str, Callable], total_steps: int, path: pathlib.Path | str) -> pathlib.Path:
    """Draws learning rates over the steps of a run, {name: step -> lr}; returns the path."""
    steps = np.unique(np.linspace(0, total_steps, min(total_steps + 1, MOST_POINTS)).round().astype(np.int64))
    figure, (axes,) = lines.panels(1)
    for i, (name, lr_fn) in enumerate(schedules.items()):
        axes.plot(steps, np.asarray(lr_fn(steps)), label=name, **lines.look(i))
    axes.set(xlabel="optimiser step", ylabel="learning rate", title=f"learning rate over {total_steps:,} steps")
    return _save(figure, [axes], path)


def curves(metrics: pathlib.Path | str, path: pathlib.Path | str) -> pathlib.Path:
    """Draws a run: training loss (thin: as it is; thick: smoothed), each evaluator's loss, and the learning rate; returns the path."""
    rows = read_metrics(metrics)
    figure, (top, bottom) = lines.panels(2)
    steps, losses = series(rows, "train/loss")
    found = [(steps, losses)]
    if len(steps) > 20:
        top.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8)
        top.plot(steps, sweeps.smooth(losses, 0.04), color=BLUE, label="training (smoothed)")
    elif len(steps):
        top.plot(steps, losses, color=BLUE, marker="o", label="training")
    evaluated = sorted({key for row in rows for key in row if key.endswith("/loss")} - {"train/loss"})
    for i, key in enumerate(evaluated, start=1):
        steps, values = series(rows, key)
        found.append((steps, values))
        top.plot(steps, values, marker="o", markersize=4, label=key.removesuffix("/loss"), **lines.look(i))
        if i == 1:
            _mark_lowest(top, steps, values, COLOURS[i])
    lines.focus(top, found)
    top.set(ylabel="loss", title=f"run {pathlib.Path(metrics).resolve().parent.name}")
    bottom.plot(*series(rows, "train/lr"), color=BLACK)
    bottom.set(xlabel="optimiser step", ylabel="learning rate")
    bottom.set_ylim(bottom=0)
    return _save(figure, [top, bottom], path)


def compare(
    runs: Mapping[str, pathlib.Path | str], path: pathlib.Path | str, key: str = "val/loss", mode: Literal["min", "max"] = "min"
) -> pathlib.Path:
    """Draws one number and the learning rate of several runs, {name: metrics.jsonl}, best run first in the legend; returns the path.

    mode: whether a lower or a higher number is better.
    """
    read = {name: read_metrics(metrics) for name, metrics in runs.items()}
    last = {name: series(rows, key)[1][-1:] for name, rows in read.items()}
    if lacking := [name for name, value in last.items() if not len(value)]:
        raise UserError(f"compare: there is no {key} in the metrics of {', '.join(lacking)}.")
    arms = []
    for name in sorted(read, key=lambda name: rank(last[name][0], mode)):
        label = f"{name}: {last[name][0]:.4f}"
        arms.append(lines.Arm(label, [series(read[name], key)], rate=series(read[name], "train/lr")))
    return _save(lines.figure(arms, key, f"{key} (the legend gives the last value)"), [], path)


def range_test(metrics: pathlib.Path | str, path: pathlib.Path | str) -> tuple[pathlib.Path, float]:
    """Draws loss over learning rate of a run with schedule range_test; returns (path, suggested lr; see optim/range_test.py)."""
    rows = read_metrics(metrics)
    (steps, lrs), found = series(rows, "train/lr"), dict(zip(*series(rows, "train/loss"), strict=True))
    losses = np.asarray([found.get(step, np.nan) for step in steps])
    lr = sweeps.suggest(lrs, losses)
    lrs, losses = lrs[np.isfinite(losses)], losses[np.isfinite(losses)]
    figure, (axes,) = lines.panels(1)
    axes.plot(lrs, losses, color=BLUE, alpha=0.3, linewidth=0.8, label="loss")
    axes.plot(lrs, sweeps.smooth(losses), color=BLUE, label="smoothed")
    axes.axvline(lr, color=RED, linestyle="--", label=f"suggested peak {lr:.2g}")
    axes.set_xscale("log")
    low, high = losses.min(), losses[: max(3, len(losses) // 10)].max()
    axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    axes.set(xlabel="learning rate", ylabel="loss", title="range test: steepest fall, at most a tenth of where it diverges")
    return _save(figure, [axes], path), lr


def costs(points: Mapping[str, tuple[int, float, float]], path: pathlib.Path | str, key: str) -> pathlib.Path:
    """Draws how well methods do over how many parameters they train, {method: (parameters, mean, spread)}; returns the path."""
    figure, (axes,) = lines.panels(1)
    for i, (name, (parameters, mean, spread)) in enumerate(points.items()):
        axes.errorbar(parameters, mean, yerr=spread or None, marker="o", capsize=3, linestyle="none", color=COLOURS[i % len(COLOURS)])
        axes.annotate(name, (parameters, mean), (7, 5), textcoords="offset points", fontsize=9, color=COLOURS[i % len(COLOURS)])
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set(xlabel="trained parameters", ylabel=key, title=f"{key} of each method (mean and deviation over seeds)")
    return _save(figure, [axes], path, counts=False)


def rank(value: float, mode: Literal["min", "max"]) -> float:
    """Returns a number that is lower for better values, and highest for one that is not a number."""
    return math.inf if math.isnan(value) else value if mode == "min" else -value


def read_metrics(path: pathlib.Path | str) -> list[dict[str, Any]]:
    """Returns the objects of a metrics.jsonl. A last line cut short by a kill is left out; errors: UserError for any other damage."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; a run writes metrics.jsonl into its workdir.")
    return list(jsonl.read(path))


def series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps int64, values float64) of one number by rising step; where a step was written twice the later line counts."""
    found = {row["step"]: row[key] for row in rows if isinstance(row.get(key), int | float)}
    steps = sorted(found)
    return np.asarray(steps, np.int64), np.asarray([found[step] for step in steps], np.float64)


def _mark_lowest(axes: Any, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    if not np.isfinite(values).any():
        return
    best = int(np.nanargmin(values))
    text = f"lowest {values[best]:.4f}\nat step {steps[best]:,}"
    axes.plot(steps[best], values[best], marker="*", markersize=12, color=colour)
    axes.annotate(text, (steps[best], values[best]), (-6, 28), textcoords="offset points", ha="right", color=colour, fontsize=9)


def _save(figure: Any, panels: Sequence[Any], path: pathlib.Path | str, counts: bool = True) -> pathlib.Path:
    for axes in panels:
        lines.frame(axes)
    if panels and counts and panels[0].get_xlabel() != "learning rate":
        panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
