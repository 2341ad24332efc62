"""The picture of a sweep: each arm's numbers over the steps (see report/lines.py), and the learning rate below.

Mean and band are those of the runs that are done, as in the table; each other run is a thin line of its own.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.report import lines
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep import naming
from decoder_lab.sweep.folder import Folder
from decoder_lab.sweep.following import Following, Objective
from decoder_lab.sweep.results import Row

RATE = "train/lr"
MOST_ARMS = 24  # lines that can be told apart; of more the best are drawn


def draw(folder: Folder, found: Sequence[Row], objective: Objective, path: pathlib.Path) -> pathlib.Path:
    """Writes the picture; returns the path (.png, .svg, .pdf). Errors: UserError without a number."""
    figure = made(folder, found, objective)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def made(folder: Folder, found: Sequence[Row], objective: Objective) -> Any:
    """Returns the matplotlib figure of the arms, the best first in the legend. Errors: UserError without a number."""
    arms = [arm for row in found if (arm := _arm(folder, row, found, objective.name))][:MOST_ARMS]
    if not arms:
        raise UserError(f"--figure: no run has a {objective.name} in its metrics.jsonl.")
    return lines.figure(arms, objective.name, f"{objective.name} (the legend gives each one's {objective.value} value)")


def _arm(folder: Folder, row: Row, found: Sequence[Row], name: str) -> lines.Arm | None:
    """Returns what is drawn of an arm; None where no run of it has the number. A run that ended with what is not finite stands apart."""
    curves = [(record, series) for record in row.records if len((series := _series(folder, record.name, name))[0])]
    if not curves:
        return None
    whole = [series for record, series in curves if record.status == folders.DONE and math.isfinite(series[1][-1])]
    others = [series for _, series in curves if not any(series is one for one in whole)]
    rate = _series(folder, curves[0][0].name, RATE)
    return lines.Arm(_label(row, found, folder), whole, others, rate)


def _label(row: Row, found: Sequence[Row], folder: Folder) -> str:
    """Returns an arm's name and mean; beside a name that several have, the settings by which those differ."""
    alike = [other.settings for other in found if other.settings.get("name") == row.settings.get("name")]
    settings = {k: v for k, v in row.settings.items() if k == "name" or any(other.get(k) != v for other in alike)}
    exact = {k: naming.digits(other.get(k) for other in alike) for k in settings}
    parts = [v if isinstance(v, str) else f"{k} {naming.short(v, exact[k])}" for k, v in settings.items()]
    count = "" if row.runs().isdecimal() else f" ({row.runs()})"
    return (", ".join(parts) or folder.root.name) + (f": {row.mean(0):.4f}" if row.mean(0) is not None else "") + count


def _series(folder: Folder, run: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps int64 [T], values float64 [T]) of a number of a run, empty where it has none."""
    found = sorted(Following(folder.workdir(run) / "metrics.jsonl", [name]).read().values[name].items())
    return np.asarray([step for step, _ in found], np.int64), np.asarray([value for _, value in found], np.float64)
