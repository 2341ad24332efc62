"""Runs of several methods and seeds as one table: what each trains, what it costs, and how well it does.

python -m decoder_lab.report.methods --metric=val/bits_per_byte runs/adapters/lora_0 runs/adapters/lora_1 runs/adapters/full_0

A run's folder is called METHOD_SEED. Time and memory are there for runs that decoder_lab.benchmark.methods started.
"""

import argparse
import csv
import dataclasses
import json
import math
import pathlib
import statistics
import sys
from typing import Literal

from decoder_lab.core.errors import UserError, nearest
from decoder_lab.report import compare, plots

USAGE = "usage.json"  # of each process that worked at a run: {"command", "exit_code", "seconds", "peak_bytes"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A method. None: not known.

    Attributes:
      trained, total: parameters.
      seconds, complete: mean time of a run, and whether all of it was measured; peak_bytes: most resident memory of any of its processes.
      before, after: the number before the first step and at the end, a value a seed.
      tokens_per_second: median.
    """

    method: str
    trained: int
    total: int | None
    seconds: float | None
    complete: bool
    peak_bytes: int | None
    before: list[float]
    after: list[float]
    tokens_per_second: float | None

    @property
    def mean(self) -> float:
        """Of the number at the end."""
        return statistics.fmean(self.after)

    @property
    def spread(self) -> float | None:
        """Its standard deviation over seeds."""
        return statistics.stdev(self.after) if len(self.after) > 1 else None


def parameters(run: pathlib.Path) -> tuple[int, int | None]:
    """Returns how many parameters of a run are trained, by its newest checkpoint, and how many there are."""
    steps = sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal())
    if not steps:
        raise UserError(f"{run} has no checkpoint: let it end first.")
    record = json.loads((run / "checkpoints" / str(steps[-1]) / "checkpoint.json").read_text(encoding="utf-8"))
    trained = sum(math.prod(shape) for path, (_, shape) in record["arrays"].items() if path.startswith("params/"))
    return trained, record.get("meta", {}).get("num_parameters")


def usage(run: pathlib.Path) -> list[dict]:
    """Returns what each process that worked at a run used; [] where nobody wrote it down."""
    file = run / USAGE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def rows(runs: list[pathlib.Path], key: str, mode: Literal["min", "max"]) -> list[Row]:
    """Returns a row a method, best first by the mean of each run's last value of `key`. Errors: UserError for what is no such run."""
    groups: dict[str, list[pathlib.Path]] = {}
    for run in runs:
        method, _, seed = run.name.rpartition("_")
        if not method or not seed.isdecimal():
            raise UserError(f"{run}: expected a folder called METHOD_SEED, such as lora_0.")
        groups.setdefault(method, []).append(run)
    return sorted((_row(method, members, key) for method, members in groups.items()), key=lambda row: plots.rank(row.mean, mode))


def _row(method: str, runs: list[pathlib.Path], key: str) -> Row:
    before, after, speeds, seconds, peaks, complete = [], [], [], [], [], True
    for run in runs:
        metrics = plots.read_metrics(run / "metrics.jsonl")
        _, values = plots.series(metrics, key)
        if not len(values):
            known = sorted({name for row in metrics for name in row if "/" in name})
            raise UserError(f"{run} has no {key}.{nearest(key, known)} It has: {', '.join(known) or 'no number yet'}.")
        before.append(float(values[0]))
        after.append(float(values[-1]))
        speeds += [float(x) for x in plots.series(metrics, "time/tokens_per_s")[1][1:]]
        used = usage(run)
        known = [each for each in used if each["exit_code"] is not None]
        complete &= len(known) == len(used)
        seconds += [sum(each["seconds"] for each in known)] if known else []
        peaks += [each["peak_bytes"] for each in known]
    mean = statistics.fmean(seconds) if seconds else None
    speed = statistics.median(speeds) if speeds else None
    return Row(method, *parameters(runs[0]), mean, complete, max(peaks, default=None), before, after, speed)


def table(found: list[Row], key: str) -> list[str]:
    """Returns the lines of a Markdown table."""
    head = ["method", "trained parameters", "of all", "peak memory", "time", f"{key} before", "after", "seeds", "tokens/s"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in found:
        share = f"{row.trained / row.total:.2%}" if row.total else "-"
        memory = f"{row.peak_bytes / 1e9:.2f} GB" if row.peak_bytes else "-"
        after = f"{row.mean:.4f}" + ("" if row.spread is None else f" ± {row.spread:.4f}")
        speed = f"{row.tokens_per_second:,.0f}" if row.tokens_per_second else "-"
        cells = [row.method, f"{row.trained:,}", share, memory, _time(row), f"{statistics.fmean(row.before):.4f}", after]
        lines.append(f"| {' | '.join([*cells, str(len(row.after)), speed])} |")
    return lines


def _time(row: Row) -> str:
    if row.seconds is None:
        return "-"
    least = "" if row.complete else "> "  # a process was killed before anybody could write down what it used
    return least + (f"{row.seconds:.0f} s" if row.seconds < 100 else f"{row.seconds / 60:.1f} min")


def write(found: list[Row], key: str, output: pathlib.Path) -> None:
    """Writes methods.md, methods.csv and methods.png into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "methods.md").write_text("\n".join(table(found, key)) + "\n", encoding="utf-8")
    with open(output / "methods.csv", "w", newline="", encoding="utf-8") as file:
        fields = "method trained total seconds all_seconds_known peak_bytes before mean spread seeds tokens_per_second values".split()
        writer = csv.writer(file)
        writer.writerow(fields)
        for row in found:
            costs = [row.trained, row.total, row.seconds, row.complete, row.peak_bytes]
            scores = [statistics.fmean(row.before), row.mean, row.spread, len(row.after)]
            writer.writerow([row.method, *costs, *scores, row.tokens_per_second, " ".join(map(str, row.after))])
    points = {row.method: (row.trained, row.mean, row.spread or 0.0) for row in found}
    plots.costs(points, output / "methods.png", key)


def main(argv: list[str]) -> None:
    """Prints the table; with --output also writes it as Markdown, CSV and PNG."""
    parser = argparse.ArgumentParser("python -m decoder_lab.report.methods", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs, METHOD_SEED")
    parser.add_argument("--metric", default="val/loss")
    parser.add_argument("--mode", choices=("min", "max"), help="whether lower or higher is better (default: as the runs' checkpoint.mode)")
    parser.add_argument("--output", type=pathlib.Path, help="a folder for methods.md, methods.csv and methods.png")
    flags = parser.parse_args(argv)
    found = rows(flags.runs, flags.metric, flags.mode or compare.better(flags.runs, flags.metric))
    print("\n".join(table(found, flags.metric)))
    if flags.output:
        write(found, flags.metric, flags.output)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
