"""The picture of a sweep: each arm's numbers over the steps, seeds as a band from lowest to highest, and the learning rate below.

Mean and band are those of the runs that are done, as in the table; each other run is a thin line of its own.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.report import chart
from decoder_lab.report.plots import COLOURS, STYLES
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep import naming
from decoder_lab.sweep.folder import Folder
from decoder_lab.sweep.following import Following, Objective
from decoder_lab.sweep.results import Row

RATE = "train/lr"
MOST_ARMS = 24  # lines that can be told apart; of more the best are drawn
MOST_INSIDE = 4  # entries of a legend that fit into the picture


def draw(folder: Folder, found: Sequence[Row], objective: Objective, path: pathlib.Path) -> pathlib.Path:
    """Writes the picture; returns the path (.png, .svg, .pdf). Errors: UserError without a number."""
    figure = made(folder, found, objective)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def made(folder: Folder, found: Sequence[Row], objective: Objective) -> Any:
    """Returns the matplotlib figure of the arms, the best first in the legend. Errors: UserError without a number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = [(row, *curves) for row in found if any(curves := _curves(folder, row, objective.name))][:MOST_ARMS]
    if not arms:
        raise UserError(f"--figure: no run has a {objective.name} in its metrics.jsonl.")
    figure = Figure(figsize=(9, 6.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]})
    for i, (row, done, others) in enumerate(arms):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)]}
        label = _label(row, found, folder)
        if done:
            steps, values_RT = common(done)
            top.plot(steps, values_RT.mean(0), label=label, marker="o" if len(steps) < 30 else None, markersize=3, **style)
            if len(done) > 1:
                top.fill_between(steps, values_RT.min(0), values_RT.max(0), color=style["color"], alpha=0.15, linewidth=0)
        for curve in others:
            top.plot(list(curve), list(curve.values()), label=None if done else label, linewidth=0.7, alpha=0.7, **style)
            label = None
        rates = _series(folder, row.records[0].name, RATE)
        bottom.plot(list(rates), list(rates.values()), **style)
    _finish(top, bottom, objective, len(arms))
    return figure


def _label(row: Row, found: Sequence[Row], folder: Folder) -> str:
    """Returns an arm's name and mean; beside a name that several have, the settings by which those differ."""
    alike = [other.settings for other in found if other.settings.get("name") == row.settings.get("name")]
    settings = {k: v for k, v in row.settings.items() if k == "name" or any(other.get(k) != v for other in alike)}
    exact = {k: naming.digits(other.get(k) for other in alike) for k in settings}
    parts = [v if isinstance(v, str) else f"{k} {naming.short(v, exact[k])}" for k, v in settings.items()]
    count = "" if row.runs().isdecimal() else f" ({row.runs()})"
    return (", ".join(parts) or folder.root.name) + (f": {row.mean(0):.4f}" if row.mean(0) is not None else "") + count


def common(curves: Sequence[dict[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps that all seeds have, int64 [T], their values, float64 [seeds, T])."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return np.asarray(steps, np.int64), np.asarray([[curve[step] for step in steps] for curve in curves], np.float64)


def _curves(folder: Folder, row: Row, name: str) -> tuple[list[dict[int, float]], list[dict[int, float]]]:
    """Returns the curves of an arm's runs: (of those that are done, of the others)."""
    found = [(record.status == folders.DONE, curve) for record in row.records if (curve := _series(folder, record.name, name))]
    return [curve for done, curve in found if done], [curve for done, curve in found if not done]


def _series(folder: Folder, run: str, name: str) -> dict[int, float]:
    return Following(folder.workdir(run) / "metrics.jsonl", [name]).read().values[name]


def _finish(top: Any, bottom: Any, objective: Objective, count: int) -> None:
    curves = [np.asarray(line.get_ydata(), np.float64) for line in top.get_lines()]
    trained = [curve[1:] if len(curve) > 2 else curve for curve in curves]  # what is untrained would press everything else flat
    top.set_ylim(*chart.focus(np.concatenate(trained)))
    top.set(ylabel=objective.name.rpartition("/")[2], title=f"{objective.name} (the legend gives each one's {objective.value} value)")
    bottom.set(xlabel="optimiser step", ylabel="learning rate")
    bottom.set_ylim(bottom=0)
    bottom.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    beside = dict(loc="upper left", bbox_to_anchor=(1.0, 1.0)) if count > MOST_INSIDE else dict(loc="best")
    if top.get_legend_handles_labels()[0]:
        top.legend(frameon=False, fontsize=9, **beside)
