"""A run as its folder tells it: settings, numbers, texts, details. Files only, no JAX; what is missing or damaged is said, not raised."""

import dataclasses
import functools
import json
import math
import pathlib
import time
from typing import Any

import numpy as np

from decoder_lab.core import writer
from decoder_lab.core.errors import UserError
from decoder_lab.core.lock import LOCK, SILENT_SECONDS
from decoder_lab.core.runtime import ENDED, HISTORY
from decoder_lab.core.writer import jsonl

EVALUATION, DETAILS, ATTENTION = "evaluation.json", "evaluation_details.json", "attention.json"
NONE = "null"  # a setting that is None
FILES = ("config.json", HISTORY, jsonl.METRICS, jsonl.SAMPLES, jsonl.DETAILS, EVALUATION, DETAILS, ATTENTION, ENDED)
Series = tuple[np.ndarray, np.ndarray]  # steps int64, rising; values float64


@dataclasses.dataclass
class Run:
    """One run.

    Attributes:
      path: its folder.
      name: short and unique among the runs of a report.
      settings: {dotted name: value} of its config, what is no number or text as JSON; {} without one.
      history: what is known of each process that worked on it.
      numbers: {name: (steps, values)} of metrics.jsonl; where a step was written twice the later line counts.
      samples: {name: [(step, text)]}.
      details: {name: [(step, detail)]}, of training and of `--mode=evaluate`; kinds as in core/writer/jsonl.py.
      evaluation: what the last `--mode=evaluate` wrote.
      attention: weights that `--mode=attention` wrote, or None.
      ended: how its last process ended, or None where nothing says so.
      trouble: what could not be read.
    """

    path: pathlib.Path
    name: str
    settings: dict[str, Any]
    history: list[dict]
    numbers: dict[str, Series]
    samples: dict[str, list[tuple[int, str]]]
    details: dict[str, list[tuple[int, dict]]]
    evaluation: dict[str, Any]
    attention: dict | None
    ended: dict | None
    trouble: list[str]

    @property
    def last_step(self) -> int | None:
        """The last step with a number; None before the first."""
        return max((int(steps[-1]) for steps, _ in self.numbers.values()), default=None)

    @property
    def total_steps(self) -> int | None:
        """The steps that it was to have; None where the config counts in epochs or is missing."""
        return self.settings.get("total_steps") if self.settings.get("total_epochs") in (None, NONE) else None

    def status(self) -> str:
        """ "running", "done", "stopped" or "not begun"."""
        if _alive(self.path):
            return "running"
        if self.last_step is None:
            return "not begun" if not self.history else "stopped before its first number"
        if self.ended is not None:
            return "done" if self.ended.get("exit_code") == 0 else "stopped"
        if self.total_steps is not None:
            return "done" if self.last_step >= self.total_steps else "stopped"
        return "ended"

    def of_kind(self, kind: str) -> dict[str, list[tuple[int, dict]]]:
        """Returns {name: [(step, detail)]} of one kind."""
        return {name: found for name, found in self.details.items() if found and found[0][1].get("kind") == kind}

    def last(self, name: str) -> float | None:
        """The last value of a number."""
        return float(self.numbers[name][1][-1]) if name in self.numbers else None

    @functools.cached_property
    def _checkpoint(self) -> dict[str, Any]:
        """The record of the newest checkpoint; {} without one, or where it cannot be read."""
        folder = self.path / "checkpoints"
        steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
        return _json(self.trouble, folder / str(steps[-1]) / "checkpoint.json") or {} if steps else {}

    @property
    def meta(self) -> dict[str, Any]:
        """What the newest checkpoint remembers beside arrays."""
        return self._checkpoint.get("meta") or {}

    @property
    def parameters(self) -> int | None:
        """Numbers in the trained parameters of the newest checkpoint; None without one."""
        arrays = self._checkpoint.get("arrays", {})
        return sum(math.prod(shape) for path, (_, shape) in arrays.items() if path.startswith("params/")) or None

    @functools.cached_property
    def training_seconds(self) -> float | None:
        """Time spent in steps, by the speed at each line; evaluations and compilation are not in it."""
        steps, speeds = self.numbers.get("time/steps_per_s", (np.zeros(0), np.zeros(0)))
        fine = np.isfinite(speeds) & (speeds > 0)
        if not fine.any():
            return None
        return float(np.sum(np.diff(steps[fine], prepend=0) / speeds[fine]))


def read(paths: list[pathlib.Path]) -> list[Run]:
    """Returns the runs in these folders, and in folders of runs. Errors: UserError for one that is neither."""
    folders: list[pathlib.Path] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder; give folders of runs, or a folder that holds some.")
        found = [path] if _is_run(path) else sorted(p for p in path.rglob("*") if p.is_dir() and _is_run(p))
        if not found:
            raise UserError(f"{path} holds no run (no config.json and no metrics.jsonl, nor do the folders in it).")
        folders += [folder for folder in found if folder not in folders]
    return [open_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def _is_run(path: pathlib.Path) -> bool:
    return (path / "config.json").is_file() or (path / jsonl.METRICS).is_file()


def _names(folders: list[pathlib.Path]) -> list[str]:
    """Returns the shortest ends of the paths that tell all of them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def open_run(path: pathlib.Path, name: str) -> Run:
    """Returns the run in a folder, as far as its files can be read."""
    trouble: list[str] = []
    settings = _safely(trouble, path / "config.json", writer.hyperparameters, path) or {}
    rows = _safely(trouble, path / jsonl.METRICS, lambda p: list(jsonl.read(p)), path / jsonl.METRICS) or []
    samples: dict[str, list[tuple[int, str]]] = {}
    details: dict[str, list[tuple[int, dict]]] = {}
    for into, file, kind in ((samples, jsonl.SAMPLES, str), (details, jsonl.DETAILS, dict)):
        for row in _safely(trouble, path / file, jsonl.read_records, path / file) or []:
            for key, value in row.items():
                if isinstance(value, kind):
                    into.setdefault(key, []).append((row["step"], value))
    for key, found in (_json(trouble, path / DETAILS) or {}).items():
        details[key] = sorted([*(d for d in details.get(key, []) if d[0] != found["step"]), (found["step"], found["detail"])], key=_first)
    return Run(
        path=path,
        name=name,
        settings=settings,
        history=_safely(trouble, path / HISTORY, _lines, path / HISTORY) or [],
        numbers=columns(rows),
        samples=samples,
        details=details,
        evaluation=_json(trouble, path / EVALUATION) or {},
        attention=_json(trouble, path / ATTENTION),
        ended=_json(trouble, path / ENDED),
        trouble=trouble,
    )


def columns(rows: list[dict[str, Any]]) -> dict[str, Series]:
    """Returns {name: (steps, values)} of lines of numbers, by rising step; where a step was written twice the later line counts."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        step = row["step"]
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                found.setdefault(name, {})[step] = value
    made = {}
    for name, values in found.items():
        steps = np.fromiter(values, np.int64, len(values))
        order = np.argsort(steps, kind="stable")
        made[name] = steps[order], np.fromiter(values.values(), np.float64, len(values))[order]
    return made


def _first(pair: tuple) -> int:
    return pair[0]


def _safely(trouble: list[str], path: pathlib.Path, read_fn: Any, argument: pathlib.Path) -> Any:
    """Returns what a function makes of a file; None where there is none, or where it is damaged, which is noted."""
    if not path.is_file():
        return None
    try:
        return read_fn(argument)
    except (UserError, ValueError, OSError) as error:
        trouble.append(f"{path.name}: {error}")
        return None


def _json(trouble: list[str], path: pathlib.Path) -> Any:
    return _safely(trouble, path, lambda p: json.loads(p.read_text(encoding="utf-8")), path)


def _lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def _alive(path: pathlib.Path) -> bool:
    """Whether a process works in the folder: it renews its lock."""
    lock = path / LOCK
    return lock.is_file() and time.time() - lock.stat().st_mtime < SILENT_SECONDS
