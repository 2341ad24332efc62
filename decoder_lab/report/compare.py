"""Several runs side by side: one figure and one table.

python -m decoder_lab.report.compare --output=runs/schedules/compare.png runs/schedules/cosine runs/schedules/linear
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Literal

from decoder_lab.core.errors import UserError, nearest
from decoder_lab.report import plots

LOWER_IS_BETTER = ("loss", "nll", "perplexity", "bits_per_byte", "mse", "rmse", "median_rank")
HIGHER_IS_BETTER = (
    "accuracy", "f1", "f1_macro", "f1_micro", "f1_weighted", "precision", "recall", "mcc", "bleu", "bleu_tokenized", "chrf", "rouge1",
    "rouge2", "rougeL", "exact_match", "em", "pearson", "spearman", "sentence_accuracy", "intent_accuracy", "tag_accuracy", "mrr",
)  # fmt: skip


def better(folders: Iterable[pathlib.Path], key: str) -> Literal["min", "max"]:
    """Returns whether a lower or a higher value is better: what the runs choose their best checkpoint by, where that is this number.

    Errors: UserError where neither they nor its name say so.
    """
    configs = [json.loads(path.read_text()) for folder in folders if (path := folder / "config.json").is_file()]
    said = {config["checkpoint"]["mode"] for config in configs if config["checkpoint"]["metric"] == key}
    if len(said) == 1:
        return said.pop()
    last = key.rpartition("/")[2]
    if last in LOWER_IS_BETTER or last in HIGHER_IS_BETTER:
        return "min" if last in LOWER_IS_BETTER else "max"
    near = nearest(last, (*LOWER_IS_BETTER, *HIGHER_IS_BETTER))
    raise UserError(f"--mode: is a lower or a higher {key} better? Say --mode=min or --mode=max.{near}")


def table(runs: dict[str, pathlib.Path], key: str, mode: Literal["min", "max"]) -> list[str]:
    """Returns the lines of a Markdown table: each run's last and best value of one number, best last value first."""
    found = {}
    for name, path in runs.items():
        steps, values = plots.series(plots.read_metrics(path), key)
        if len(values):
            best = min(values, key=lambda value: plots.rank(value, mode))
            found[name] = (values[-1], best, steps[-1])
    order = sorted(found, key=lambda name: plots.rank(found[name][0], mode))
    rows = [f"| {name} | {found[name][0]:.4f} | {found[name][1]:.4f} | {found[name][2]:,} |" for name in order]
    return [f"| run | last {key} | {'lowest' if mode == 'min' else 'highest'} | steps |", "|---|---|---|---|", *rows]


def main(argv: list[str]) -> None:
    """Draws the figure and prints the table."""
    parser = argparse.ArgumentParser("python -m decoder_lab.report.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="folders of runs")
    parser.add_argument("--metric", default="val/loss")
    parser.add_argument("--mode", choices=("min", "max"), help="whether lower or higher is better (default: as the runs' checkpoint.mode)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("compare.png"))
    flags = parser.parse_args(argv)
    names = [run.name for run in flags.runs]
    runs = {run.name if names.count(run.name) == 1 else str(run): run / "metrics.jsonl" for run in flags.runs}
    mode = flags.mode or better(flags.runs, flags.metric)
    picture = plots.compare(runs, flags.output, flags.metric, mode)
    print("\n".join(table(runs, flags.metric, mode)))
    print(f"picture: {picture}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
