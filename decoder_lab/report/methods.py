"""Runs of several methods and seeds as one table: what each trains, how well it does, how fast it is.

python -m decoder_lab.report.methods --metric=val/bits_per_byte runs/adapters/lora_0 runs/adapters/lora_1 runs/adapters/full_0

A run's folder is called METHOD_SEED.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys

from decoder_lab.core.errors import UserError
from decoder_lab.report import plots


def trained_parameters(run: pathlib.Path) -> int:
    """Returns how many parameters the newest checkpoint of a run holds: those that were trained."""
    steps = sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal())
    if not steps:
        raise UserError(f"{run} has no checkpoint: let it end first.")
    record = json.loads((run / "checkpoints" / str(steps[-1]) / "checkpoint.json").read_text(encoding="utf-8"))
    return sum(math.prod(shape) for path, (_, shape) in record["arrays"].items() if path.startswith("params/"))


def table(runs: list[pathlib.Path], key: str, highest: bool = False) -> list[str]:
    """Returns the lines of a Markdown table, a method a line, best first: mean and deviation over seeds of each run's last value of `key`.

    highest: whether a higher value is better.
    """
    groups: dict[str, list[pathlib.Path]] = {}
    for run in runs:
        method, _, seed = run.name.rpartition("_")
        if not method or not seed.isdecimal():
            raise UserError(f"{run}: expected a folder called METHOD_SEED, such as lora_0.")
        groups.setdefault(method, []).append(run)
    rows = []
    for method, members in groups.items():
        first, last, speeds = [], [], []
        for run in members:
            metrics = plots.read_metrics(run / "metrics.jsonl")
            _, values = plots.series(metrics, key)
            if not len(values):
                raise UserError(f"{run} has no {key}.")
            first.append(float(values[0]))
            last.append(float(values[-1]))
            speeds += [float(x) for x in plots.series(metrics, "time/tokens_per_s")[1][1:]]
        spread = f" ± {statistics.stdev(last):.4f}" if len(last) > 1 else ""
        speed = f"{statistics.median(speeds):,.0f}" if speeds else "-"
        mean = statistics.fmean(last)
        before, number = statistics.fmean(first), trained_parameters(members[0])
        text = f"| {method} | {number:,} | {before:.4f} | {mean:.4f}{spread} | {len(last)} | {speed} |"
        rows.append((-mean if highest else mean, text))
    head = ["| method | trained parameters | " + f"{key} before | after | seeds | tokens/s |", "|---|---|---|---|---|---|"]
    return head + [text for _, text in sorted(rows)]


def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m decoder_lab.report.methods", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs, METHOD_SEED")
    parser.add_argument("--metric", default="val/loss")
    parser.add_argument("--highest", action="store_true", help="a higher value is better")
    flags = parser.parse_args(argv)
    print("\n".join(table(flags.runs, flags.metric, flags.highest)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
