"""The drawing of one number over the steps, wherever Matplotlib draws it: a sweep's picture, runs side by side, a figure for a paper.

Of runs that differ in a seed the mean, and a band from the lowest to the highest; of one run its line, faint and smoothed where it is long.
A run that stopped on the way or diverged is a thin line of its own. A cross stands where a line leaves the finite numbers. The range is
that of trained models: what an evaluator says at step 0, and few first losses, may lie outside. Colours are Okabe and Ito's, told apart by
every kind of colour vision, and line styles differ too.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from decoder_lab.optim import range_test
from decoder_lab.report import chart
from decoder_lab.report.run import Series

BLUE, ORANGE, GREEN, PINK, SKY, RED, BLACK = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"
COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK)
STYLES = ("-", "--", "-.", ":")
THIN = 0.7  # points
MOST_MARKED = 30  # points of a line up to which each is marked
SMOOTH_FROM = 200  # points of a line from which a smoothed one is drawn over it
SMOOTHING = 0.04  # of the line
MOST_FULL = 6  # bands in their full colour
MOST_INSIDE = 4  # entries of a legend that fit into the picture; more stand beside it


@dataclasses.dataclass
class Arm:
    """Runs that differ in a seed only.

    Attributes:
      label: of the legend.
      whole: steps and values of the runs that make mean and band, or of one run.
      others: of those that stopped on the way or diverged.
      rate: the learning rate of one of them, where it is drawn too.
    """

    label: str
    whole: Sequence[Series]
    others: Sequence[Series] = ()
    rate: Series | None = None


def look(i: int) -> dict[str, Any]:
    """Returns colour and style of the i-th line."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)]}


def panels(count: int) -> tuple[Any, list[Any]]:
    """Returns (figure, its panels, one below the other, with the same steps)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(9, 4.5 if count == 1 else 6.5), dpi=120, layout="constrained")
    FigureCanvasAgg(made)
    heights = {"height_ratios": [1] if count == 1 else [2.2, 1]}
    return made, list(made.subplots(count, 1, sharex=True, squeeze=False, gridspec_kw=heights)[:, 0])


def figure(arms: Sequence[Arm], name: str, title: str) -> Any:
    """Returns the figure of a number of some arms, the learning rates below."""
    made, (top, bottom) = panels(2)
    draw(top, arms)
    top.set(ylabel=name.rpartition("/")[2], title=title)
    for i, arm in enumerate(arms):
        if arm.rate is not None:
            bottom.plot(*arm.rate, **look(i))
    bottom.set(xlabel="optimiser step", ylabel="learning rate")
    bottom.set_ylim(bottom=0)
    bottom.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for axes in (top, bottom):
        frame(axes)
    return made


def draw(axes: Any, arms: Sequence[Arm]) -> None:
    """Draws the arms, each with its entry of the legend, and sets the range of values."""
    for i, arm in enumerate(arms):
        style, label = look(i), arm.label
        if len(arm.whole) > 1:
            steps, mean, low, high = band(arm.whole)
            alpha = 0.18 if len(arms) <= MOST_FULL else 0.1  # where many lie over each other the lines must stay visible
            axes.fill_between(steps, low, high, color=style["color"], alpha=alpha, linewidth=0)
            axes.plot(steps, mean, label=label, **_marked(steps), **style)
        elif arm.whole:
            _single(axes, *arm.whole[0], label, style)
        thin = {"linewidth": THIN, "alpha": 0.7} if len(arm.whole) + len(arm.others) > 1 else {}
        for place, series in enumerate(arm.others):
            axes.plot(*series, label=label if not arm.whole and not place else None, **_marked(series[0]), **style, **thin)
        for steps, values in (*arm.whole, *arm.others):
            _cross(axes, steps, values, style["color"])
    focus(axes, [series for arm in arms for series in (*arm.whole, *arm.others)])


def band(found: Sequence[Series]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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


def focus(axes: Any, found: Iterable[Series]) -> None:
    """Sets the range of values to what some lines have of trained models."""
    trained = [values[steps > 0] if len(steps) > 2 else values for steps, values in found]
    axes.set_ylim(*chart.focus(np.concatenate([np.zeros(0), *trained])))


def frame(axes: Any) -> None:
    """Gives a panel its grid and its legend, beside it where it is long."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if count := len(axes.get_legend_handles_labels()[0]):
        beside = dict(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.legend(frameon=False, fontsize=9, **(beside if count > MOST_INSIDE else dict(loc="best")))


def _single(axes: Any, steps: np.ndarray, values: np.ndarray, label: str, style: dict[str, Any]) -> None:
    fine = np.isfinite(values)
    if fine.sum() > SMOOTH_FROM:
        axes.plot(steps, values, color=style["color"], alpha=0.25, linewidth=THIN)
        values = np.where(fine, values, np.nan)
        values[fine] = range_test.smooth(values[fine], SMOOTHING)
    axes.plot(steps, values, label=label, **_marked(steps), **style)


def _cross(axes: Any, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    """Marks the finite values after which there is none."""
    fine = np.isfinite(values)
    last = np.flatnonzero(fine[:-1] & ~fine[1:])
    if len(last):
        axes.plot(steps[last], values[last], marker="x", color=colour, linestyle="none")


def _marked(steps: np.ndarray) -> dict[str, Any]:
    return {"marker": "o", "markersize": 2.5} if len(steps) <= MOST_MARKED else {}
