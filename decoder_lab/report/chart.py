"""Line charts: the data that the page's script draws from, and the drawing that stands there without a script."""

import dataclasses
import math
from typing import Any

import numpy as np

from decoder_lab.report import decimate
from decoder_lab.report.markup import Html, number, tag
from decoder_lab.report.run import Series

WIDTH, WIDE, HEIGHT = 640, 1300, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 10, 26
STATIC_COLUMNS = 150
STATIC_LINES = 60  # of a chart; more are drawn by the script only
MOST_IN_KEY = 30  # lines that a chart names below itself; those of runs are named above all charts
PALETTE = 8  # colours that the style sheet names; more are spread over the hues
GOLDEN_ANGLE = 137.508
FOCUS = 2.0  # a range this many times as large as that of 98% of the points is cut


@dataclasses.dataclass
class Line:
    """One line of a chart.

    Attributes:
      label: said beside its values.
      series: steps and values.
      group: number of the group of runs that it belongs to, or of the line itself where it is of no run.
      colour: CSS.
      apart: whether it stopped on the way or diverged: a band of seeds leaves it out, and it is drawn beside that.
    """

    label: str
    series: Series
    group: int
    colour: str
    apart: bool = False


@dataclasses.dataclass
class Chart:
    """Several lines over the steps.

    Attributes:
      title: the number's name.
      lines: what is drawn.
      by_run: whether the lines are runs, which the page's list of runs shows and hides, and gathers in bands.
      wide: whether it takes the whole width of the page.
      about: what else is to be said, for whoever cannot see it too.
    """

    title: str
    lines: list[Line]
    by_run: bool = True
    wide: bool = False
    about: str = ""


def colour(i: int, count: int) -> str:
    """Returns the i-th of so many colours, for light and dark alike."""
    if count <= PALETTE:
        return f"var(--c{i})"
    return f"oklch(var(--l{i % 2}) 0.14 {GOLDEN_ANGLE * i % 360:.0f})"  # neighbours are far apart


def depth_colour(i: int, count: int) -> str:
    """Returns a colour of a scale from first to last layer."""
    return f"oklch(var(--l0) 0.15 {300 - 250 * i / max(count - 1, 1):.0f})"


def data(chart: Chart, columns: int) -> dict[str, Any]:
    """Returns what the script needs, with every line cut down to so many columns."""
    lines = []
    for line in chart.lines:
        points = decimate.decimate(*line.series, columns)
        entry = {"l": line.label, "c": line.colour, "g": line.group, "n": len(line.series[0]), "d": decimate.encode(points)}
        if line.apart:
            entry["a"] = 1
        if len(points[0]) < len(line.series[0]):
            entry["m"] = decimate.encode(decimate.means(*line.series, columns), exact=False)
        lines.append(entry)
    return {"title": chart.title, "byRun": chart.by_run, "lines": lines}


def figure(chart: Chart, place: int) -> Html:
    """Returns the figure that the script takes over, with a drawing of its own."""
    labels = ", ".join(line.label for line in chart.lines[:6]) + (" ..." if len(chart.lines) > 6 else "")
    about = f"{chart.title} over optimiser steps: {labels}. {chart.about}".strip()
    caption = tag("figcaption", tag("b", chart.title), tag("span", chart.about, class_="dim") if chart.about else "")
    drawn = tag("div", _static(chart), class_="plot", tabindex="0", role="img", aria_label=about)
    read = tag("div", class_="read", aria_live="polite")
    key = "" if chart.by_run or len(chart.lines) > MOST_IN_KEY else tag("div", [_key(line) for line in chart.lines], class_="key")
    return tag("figure", caption, drawn, key, read, class_="chart wide" if chart.wide else "chart", data_chart=place)


def _key(line: Line) -> Html:
    return tag("span", tag("i", class_="dot", style=f"background:{line.colour}"), line.label)


def focus(values: np.ndarray) -> tuple[float, float]:
    """Returns the range of values that is worth showing: few high ones, such as the first losses, do not press the others flat."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high, most = float(values.min()), float(np.quantile(values, 0.98)), float(values.max())
    high = most if len(values) < 8 or high <= low or most - low < FOCUS * (high - low) else high
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 0.5
    return low - margin, high + margin


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns round numbers in a range, about so many."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    size = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / size)
    return [i * size for i in range(first, math.floor(high / size) + 1)][: 4 * count]


def _static(chart: Chart) -> Html:
    """Returns an SVG of the chart, coarser than what the script draws."""
    shown = [line for line in chart.lines[:STATIC_LINES] if len(line.series[0])]
    columns = max(20, STATIC_COLUMNS * 4 // max(4, len(shown)))
    points = [(line, *decimate.decimate(*line.series, columns)) for line in shown]
    low, high = focus(np.concatenate([values for _, _, values in points]) if points else np.zeros(0))
    last = max((float(steps[-1]) for _, steps, _ in points), default=1.0)
    first = min((float(steps[0]) for _, steps, _ in points), default=0.0)
    span = (last - first) or 1.0

    width = WIDE if chart.wide else WIDTH

    def x(step: Any) -> Any:
        return LEFT + (step - first) / span * (width - LEFT - RIGHT)

    def y(value: Any) -> Any:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [tag("line", x1=LEFT, x2=width - RIGHT, y1=f"{y(t):.1f}", y2=f"{y(t):.1f}", class_="grid") for t in ticks(low, high)]
    parts += [tag("text", f"{t:.4g}", x=LEFT - 6, y=f"{y(t) + 4:.1f}", text_anchor="end") for t in ticks(low, high)]
    parts += [
        tag("text", number(round(t)), x=f"{x(t):.1f}", y=HEIGHT - 8, text_anchor="middle") for t in ticks(first, last) if t == round(t)
    ]
    for line, steps, values in points:
        fine = np.isfinite(values)
        clipped = np.clip(y(values[fine]), TOP - 2, HEIGHT - BOTTOM + 2)
        path = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(x(steps[fine]), clipped, strict=True))
        parts.append(tag("polyline", points=path, style=f"stroke:{line.colour}"))
        if len(steps) == 1 and fine.any():
            parts.append(tag("circle", cx=f"{x(steps[0]):.0f}", cy=f"{clipped[0]:.1f}", r=3, style=f"fill:{line.colour}"))
    return tag("svg", parts, viewBox=f"0 0 {width} {HEIGHT}", aria_hidden="true")
