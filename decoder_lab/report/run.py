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
from decoder_lab.report import kinds

EVALUATION, DETAILS, ATTENTION = "evaluation.json", "evaluation_details.json", "attention.json"
NONE = "null"  # a setting that is None
MOST_STEPS = 2**32  # a page keeps steps in 32 bits
FILES = ("config.json", HISTORY, jsonl.METRICS, jsonl.SAMPLES, jsonl.DETAILS, EVALUATION, DETAILS, ATTENTION, ENDED)
Series = tuple[np.ndarray, np.ndarray]  # steps int64, rising; values float64


@dataclasses.dataclass(eq=False)
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
        steps = self.settings.get("total_steps") if self.settings.get("total_epochs") in (None, NONE) else None
        return steps if isinstance(steps, int) else None

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
        alike = {name: [(step, detail) for step, detail in found if detail["kind"] == kind] for name, found in self.details.items()}
        return {name: found for name, found in alike.items() if found}

    def last(self, name: str) -> float | None:
        """The last value of a number."""
        return float(self.numbers[name][1][-1]) if name in self.numbers else None

    @functools.cached_property
    def _checkpoint(self) -> dict[str, Any]:
        """The record of the newest checkpoint; {} without one, or where it cannot be read."""
        folder = self.path / "checkpoints"
        steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal())
        return _safely(self.trouble, folder / str(steps[-1]) / "checkpoint.json", _record) or {} if steps else {}

    @property
    def meta(self) -> dict[str, Any]:
        """What the newest checkpoint remembers beside arrays."""
        return self._checkpoint.get("meta", {})

    @property
    def parameters(self) -> int | None:
        """Numbers in the trained parameters of the newest checkpoint; None without one."""
        return self._checkpoint.get("parameters")

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
    found = folders(paths)
    return [open_run(folder, name) for folder, name in zip(found, _names(found), strict=True)]


def folders(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the folders of the runs that `read` reads. Errors: as of `read`."""
    made: dict[pathlib.Path, pathlib.Path] = {}  # a run that two paths lead to is one run
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder; give folders of runs, or a folder that holds some.")
        found = below(path)
        if not found:
            raise UserError(f"{path} holds no run (no config.json and no metrics.jsonl, nor do the folders in it).")
        for folder in found:
            made.setdefault(folder.resolve(), folder)
    return list(made.values())


def below(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the runs in a folder, in what is no run and not hidden: a run's own folders and those that are just being made hold none."""
    if _is_run(path):
        return [path]
    try:
        inner = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:  # it went away meanwhile, or is not ours to read
        return []
    return [run for p in inner if _is_run(p) or not p.is_symlink() for run in below(p)]


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
    settings = _safely(trouble, path / "config.json", _settings) or {}
    rows = _rows(trouble, path / jsonl.METRICS, lambda p: list(jsonl.read(p)))
    samples: dict[str, list[tuple[int, str]]] = {}
    for row in _rows(trouble, path / jsonl.SAMPLES, jsonl.read_records):
        for key, value in row.items():
            if isinstance(value, str):
                samples.setdefault(key, []).append((row["step"], value))
    attention = _object(trouble, path / ATTENTION)
    if attention is not None and (wrong := kinds.problem({"kind": "attention"} | attention)):
        trouble.append(f"{ATTENTION}: {wrong}")
        attention = None
    return Run(
        path=path,
        name=name,
        settings=settings,
        history=_safely(trouble, path / HISTORY, _lines) or [],
        numbers=columns(rows),
        samples=samples,
        details=_details(trouble, path),
        evaluation=_object(trouble, path / EVALUATION) or {},
        attention=attention,
        ended=_object(trouble, path / ENDED),
        trouble=trouble,
    )


def _details(trouble: list[str], path: pathlib.Path) -> dict[str, list[tuple[int, dict]]]:
    """Returns the details of training, and of `--mode=evaluate`; one that is not as its kind says is noted and left out."""
    found = [
        (jsonl.DETAILS, name, row["step"], detail)
        for row in _rows(trouble, path / jsonl.DETAILS, jsonl.read_records)
        for name, detail in row.items() if isinstance(detail, dict)
    ]  # fmt: skip
    for name, kept in (_object(trouble, path / DETAILS) or {}).items():
        if isinstance(kept, dict) and _is_step(kept.get("step")):
            found.append((DETAILS, name, kept["step"], kept.get("detail")))
        else:
            trouble.append(f"{DETAILS}: {name}: expected a step and a detail")
    made: dict[str, dict[int, dict]] = {}
    for file, name, step, detail in found:
        if wrong := kinds.problem(detail):
            trouble.append(f"{file}: {name} at step {step:,}: {wrong}")
        else:
            made.setdefault(name, {})[step] = detail
    return {name: sorted(details.items()) for name, details in made.items()}


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


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_STEPS


def _rows(trouble: list[str], path: pathlib.Path, read_fn: Any) -> list[dict[str, Any]]:
    """Returns the lines of a file whose step is one; that there are others is noted."""
    found = _safely(trouble, path, read_fn) or []
    rows = [row for row in found if _is_step(row["step"])]
    if len(rows) < len(found):
        trouble.append(f"{path.name}: {len(found) - len(rows)} lines have no whole number as their step")
    return rows


def _safely(trouble: list[str], path: pathlib.Path, read_fn: Any) -> Any:
    """Returns what a function makes of a file; None where there is none, or where it is damaged, which is noted."""
    if not path.is_file():
        return None
    try:
        return read_fn(path)
    except (UserError, ValueError, OSError) as error:
        trouble.append(f"{path.name}: {error}")
        return None


def _object(trouble: list[str], path: pathlib.Path) -> dict[str, Any] | None:
    return _safely(trouble, path, _read_object)


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {json.dumps(found)[:80]}")
    return found


def _settings(path: pathlib.Path) -> dict[str, Any]:
    return writer.hyperparameters(path.parent) if _read_object(path) else {}


def _record(path: pathlib.Path) -> dict[str, Any]:
    """Returns what a checkpoint's record says: how many "parameters" are trained, None for none, and the "meta" beside arrays."""
    record = _read_object(path)
    arrays, meta = record.get("arrays", {}), record.get("meta") or {}
    try:
        count = sum(math.prod(shape) for name, (_, shape) in arrays.items() if name.startswith("params/"))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"expected the shape of each array: {error}") from error
    if not isinstance(meta, dict):
        raise ValueError(f"expected meta to be a JSON object, got {meta!r}")
    return {"parameters": count or None, "meta": meta}


def _lines(path: pathlib.Path) -> list[dict]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    wrong = [line for line in found if not isinstance(line.get("versions") or {}, dict)]
    if wrong:
        raise ValueError(f"expected versions to be a JSON object, got {wrong[0]['versions']!r}")
    return found


def _alive(path: pathlib.Path) -> bool:
    """Whether a process works in the folder: it renews its lock."""
    try:
        return time.time() - (path / LOCK).stat().st_mtime < SILENT_SECONDS
    except OSError:
        return False
