"""Several runs side by side: one figure and one table.

python -m decoder_lab.report.compare --output=runs/schedules/compare.png runs/schedules/cosine runs/schedules/linear
"""

import argparse
import pathlib
import sys

from decoder_lab.core.errors import UserError
from decoder_lab.report import plots


def table(runs: dict[str, pathlib.Path], key: str) -> list[str]:
    """Returns the lines of a Markdown table: each run's last and lowest value of one number, best last value first."""
    found = {}
    for name, path in runs.items():
        steps, values = plots.series(plots.read_metrics(path), key)
        if len(values):
            found[name] = (values[-1], values.min(), steps[-1])
    rows = [f"| {name} | {last:.4f} | {low:.4f} | {step:,} |" for name, (last, low, step) in sorted(found.items(), key=lambda i: i[1])]
    return [f"| run | last {key} | lowest | steps |", "|---|---|---|---|", *rows]


def main(argv: list[str]) -> None:
    """Draws the figure and prints the table."""
    parser = argparse.ArgumentParser("python -m decoder_lab.report.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs")
    parser.add_argument("--metric", default="val/loss")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("compare.png"))
    flags = parser.parse_args(argv)
    names = [run.name for run in flags.runs]
    runs = {run.name if names.count(run.name) == 1 else str(run): run / "metrics.jsonl" for run in flags.runs}
    picture = plots.compare(runs, flags.output, key=flags.metric)
    print("\n".join(table(runs, flags.metric)))
    print(f"picture: {picture}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
