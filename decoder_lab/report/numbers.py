"""The parts of a report that are numbers: what each run reached, curves, speed, tables of evaluations."""

import statistics
from collections.abc import Iterable

import numpy as np

from decoder_lab.report import chart
from decoder_lab.report.chart import Chart, Line
from decoder_lab.report.compare import HIGHER_IS_BETTER, LOWER_IS_BETTER
from decoder_lab.report.groups import Group, banded, counted
from decoder_lab.report.markup import Html, fold, number, table, tag
from decoder_lab.report.run import Run

SHARES = {"time/device": "waiting for the device", "time/host": "the host's own work", "time/data": "waiting for data"}
BESIDE = {"time/compile_seconds": "compiling", "time/evaluate_seconds": "evaluating", "time/save_seconds": "saving"}
MOST_BARS = 8  # of where time goes; more are folded
MOST_NAMED = 2  # runs that a mean leaves out; of more their number is said


def main_metric(run: Run) -> str | None:
    """Returns the number that a run is judged by: what it chooses its best checkpoint by, or an evaluator's loss, or that of training."""
    wanted = run.settings.get("checkpoint.metric")
    losses = sorted(name for name in run.numbers if name.endswith("/loss") and name != "train/loss")
    return next((name for name in (wanted, *losses, "train/loss") if name in run.numbers), None)


def direction(name: str, runs: Iterable[Run] = ()) -> str | None:
    """Returns "min" or "max", whichever is better, by what runs say of it or by its name; None where neither does."""
    said = {run.settings.get("checkpoint.mode") for run in runs if run.settings.get("checkpoint.metric") == name} - {None}
    if len(said) == 1:
        return said.pop()
    last = name.rpartition("/")[2]
    return "min" if last in LOWER_IS_BETTER else "max" if last in HIGHER_IS_BETTER else None


def best(run: Run, name: str) -> tuple[float, int] | None:
    """Returns (best value, step) of a number; None where no value is finite, or nobody says what is better."""
    steps, values = run.numbers[name]
    better, fine = direction(name, [run]), np.isfinite(values)
    if better is None or not fine.any():
        return None
    at = int(np.argmin(np.where(fine, values, np.inf)) if better == "min" else np.argmax(np.where(fine, values, -np.inf)))
    return float(values[at]), int(steps[at])


def spread(values: list[float]) -> str:
    """Returns "1.2345", or of several seeds "1.2345 ± 0.0012" (mean and standard deviation)."""
    mean = statistics.fmean(values)
    finite = np.isfinite(values).all()
    return f"{number(mean)} ± {number(statistics.stdev(values))}" if len(values) > 1 and finite else number(mean)


def summary(groups: list[Group]) -> Html:
    """Returns a line for each group of runs: how far it is, how large, how good, how fast."""
    head = ["run", "state", "steps", "trained parameters", "judged by", "last", "best", "tokens/s", "time in steps"]
    rows = []
    for place, group in enumerate(groups):
        runs = group.runs
        states = list(dict.fromkeys(run.status() for run in runs))
        name = main_metric(runs[0])
        whole, others = counted(runs, name) if name else ([], [])
        last = [run.last(name) for run in whole]
        tops = [b for run in whole if (b := best(run, name))]
        at = f" at {tops[0][1]:,}" if len(tops) == 1 else ""
        speeds = [float(np.median(run.numbers["time/tokens_per_s"][1])) for run in runs if "time/tokens_per_s" in run.numbers]
        seconds = [s for run in runs if (s := run.training_seconds)]
        steps = [run.last_step for run in runs if run.last_step is not None]
        total = runs[0].total_steps
        dot = tag("i", class_="dot", style=f"background:{chart.colour(place, len(groups))}")
        rows.append([
            [dot, group.label, tag("span", f" {len(runs)} seeds", class_="dim") if len(runs) > 1 else ""],
            [tag("span", state, class_=f"state {state.split()[0]}") for state in states],
            (number(min(steps)) if steps else "–") + (f" of {total:,}" if total and (not steps or min(steps) != total) else ""),
            number(runs[0].parameters),
            name or "–",
            [spread(last), _without(others, name)] if last else "–",
            (spread([value for value, _ in tops]) + at) if tops else "–",
            f"{statistics.median(speeds):,.0f}" if speeds else "–",
            duration(statistics.fmean(seconds)) if seconds else "–",
        ])  # fmt: skip
    return table(head, rows, numbers_from=2)


def duration(seconds: float) -> str:
    """Returns "42 s", "12 min" or "3.2 h"."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def charts(groups: list[Group], names: Iterable[str], wide: tuple[str, ...] = ()) -> list[Chart]:
    """Returns a chart of each number over all runs that have it."""
    made = []
    for name in names:
        lines = []
        for place, group in enumerate(groups):
            paint, others = chart.colour(place, len(groups)), banded(group.runs, name)[1]
            lines += [Line(run.name, run.numbers[name], place, paint, run in others) for run in group.runs if name in run.numbers]
        if lines:
            made.append(Chart(name, lines, wide=name in wide))
    return made


def curve_names(runs: list[Run]) -> tuple[list[str], list[str], list[str]]:
    """Returns the names of the numbers to draw: what is learned, what goes with it (learning rate, norms), how fast it goes."""
    names = sorted({name for run in runs for name in run.numbers} - BESIDE.keys())
    judged = list(dict.fromkeys(name for run in runs if (name := main_metric(run))))
    speed = [name for name in names if name.startswith("time/")]
    beside = [name for name in ("train/lr", "train/grad_norm") if name in names]
    first = [*judged, *(["train/loss"] if "train/loss" in names and "train/loss" not in judged else [])]
    losses = [name for name in names if name.endswith("/loss") and name not in first]
    others = [name for name in names if name not in {*first, *losses, *speed, *beside}]
    return [*first, *losses, *others], beside, speed


def evaluations(groups: list[Group]) -> list[Html]:
    """Returns a table for each evaluator, and for training: the last value of each number, best in bold; the exact one is below it."""
    runs = [run for group in groups for run in group.runs]
    prefixes = dict.fromkeys(name.rpartition("/")[0] for run in runs for name in sorted(run.numbers) if not name.startswith("time/"))
    made = []
    for prefix in sorted(prefixes, key=lambda p: (p == "train", p)):
        names = sorted({name for run in runs for name in run.numbers if name.rpartition("/")[0] == prefix})
        rows, found, left = [], {}, {}
        for i, group in enumerate(groups):
            for name in names:
                whole, others = counted(group.runs, name)
                if whole:
                    found[i, name], left[i, name] = [run.last(name) for run in whole], others
        alike = prefix != "train" and len({_measured(run) for run in runs if any(name in run.numbers for name in names)}) == 1
        tops = {name: _top(found, name, direction(name, runs)) if alike else set() for name in names}
        for i, group in enumerate(groups):
            if any((i, name) in found for name in names):
                rows.append([group.label, *(_cell(found.get((i, name)), i in tops[name], left.get((i, name), []), name) for name in names)])
        title = tag("h3", "training, the last line" if prefix == "train" else prefix)
        made.append(tag("div", title, table(["run", *(name.rpartition("/")[2] for name in names)], rows)))
    return made


def _measured(run: Run) -> tuple:
    """Returns what must be the same where one run's numbers are to be better than another's: the task and the data."""
    return run.settings.get("task.name"), *((k, v) for k, v in sorted(run.settings.items()) if k.startswith("data.source."))


def _top(found: dict, name: str, better: str | None) -> set[int]:
    """Returns which groups have the best mean of a number; none where only one has it."""
    means = {i: statistics.fmean(values) for (i, key), values in found.items() if key == name and np.isfinite(values).all()}
    if better is None or len(means) < 2:
        return set()
    top = (min if better == "min" else max)(means.values())
    return {i for i, mean in means.items() if mean == top}


def _cell(values: list[float] | None, top: bool, others: list[Run], name: str) -> Html:
    if not values:
        return tag("span", "–", class_="dim")
    exact = ", ".join(repr(value) for value in values)
    return tag("span", tag("b" if top else "span", spread(values), title=exact, data_value=exact), _without(others, name))


def _without(others: list[Run], name: str) -> Html:
    """Returns which runs a mean leaves out, and where each is; nothing without any."""
    said = ", ".join(f"{run.name} at {run.numbers[name][0][-1]:,}" for run in others)
    short = said if len(others) <= MOST_NAMED else f"{len(others)} seeds"
    return tag("span", f" without {short}", class_="dim left-out", title=said) if others else Html("")


def time_parts(group: Group) -> dict[str, float]:
    """Returns the mean seconds that the runs of a group spent with each thing, beside steps too; {} where none of them wrote it down."""
    runs = [run for run in group.runs if run.training_seconds]
    found = {label: [run.training_seconds * _mean(run, name) for run in runs if name in run.numbers] for name, label in SHARES.items()}
    if not any(found.values()):
        return {}
    found |= {label: [float(np.nansum(run.numbers[name][1])) for run in runs if name in run.numbers] for name, label in BESIDE.items()}
    return {label: sum(values) / len(runs) for label, values in found.items() if values}


def time_shares(groups: list[Group]) -> list[Html]:
    """Returns a bar for each group of runs that wrote where its time went: parts of all that was measured."""
    made = []
    for group in groups:
        means = time_parts(group)
        if not means:
            continue
        whole = sum(means.values())
        parts = [
            tag("i", style=f"width:{100 * seconds / whole:.2f}%;background:var(--c{i})", title=f"{label}: {seconds / whole:.1%}")
            for i, (label, seconds) in enumerate(means.items())
        ]
        key = [
            tag("span", tag("i", class_="dot", style=f"background:var(--c{i})"), f"{label} {seconds / whole:.1%}, {duration(seconds)}")
            for i, (label, seconds) in enumerate(means.items())
        ]
        made.append(tag("div", tag("h3", group.label), tag("div", parts, class_="shares"), tag("div", key, class_="key")))
    return made if len(made) <= MOST_BARS else [*made[:MOST_BARS], fold(f"{len(made) - MOST_BARS} more", *made[MOST_BARS:])]


def _mean(run: Run, name: str) -> float:
    return float(np.nanmean(run.numbers[name][1]))
