"""Knowing by heart and understanding: accuracy on training and on held-out examples over the steps of a run, on a logarithmic axis.

python -m decoder_lab.report.generalisation runs/grokking
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.report import lines, plots

KEYS = {"training": "known/accuracy", "held out": "val/accuracy"}


def draw(
    metrics: pathlib.Path | str, path: pathlib.Path | str, keys: Mapping[str, str] = KEYS
) -> tuple[pathlib.Path, dict[str, int | None]]:
    """Draws {label: number of metrics.jsonl} over the steps; returns (path, the first step at which each is 0.99 or more, or None).

    Errors: UserError where a number is not in the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = plots.read_metrics(metrics)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes, reached = figure.subplots(), {}
    for i, (label, key) in enumerate(keys.items()):
        steps, values = plots.series(rows, key)
        if not len(steps):
            raise UserError(f"{metrics}: there is no {key}; the config has to have an evaluator of that name.")
        at = np.flatnonzero(values >= 0.99)
        reached[label] = int(steps[at[0]]) if len(at) else None
        axes.plot(np.maximum(steps, 1), values, label=label, **lines.look(i))
    axes.set_xscale("log")
    axes.set(xlabel="optimiser step", ylabel="accuracy", ylim=(0, 1.02), title=f"run {pathlib.Path(metrics).resolve().parent.name}")
    axes.legend(frameon=False)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path, reached


def main(argv: list[str]) -> None:
    """Draws one run's picture and says when each accuracy reached 0.99."""
    parser = argparse.ArgumentParser("python -m decoder_lab.report.generalisation", description=__doc__)
    parser.add_argument("run", type=pathlib.Path, help="folder of a run")
    parser.add_argument("--output", type=pathlib.Path, help="default: generalisation.png in the run's folder")
    flags = parser.parse_args(argv)
    picture, reached = draw(flags.run / "metrics.jsonl", flags.output or flags.run / "generalisation.png")
    for label, step in reached.items():
        print(f"{label}: accuracy 0.99 " + (f"at step {step:,}" if step is not None else "was not reached"))
    print(f"picture: {picture}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
