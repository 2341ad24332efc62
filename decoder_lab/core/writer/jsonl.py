"""metrics.jsonl, the source of truth about a run: one JSON object a line, {"step": 200, "train/loss": 1.234}. Texts go to samples.jsonl.

What is more than a number or a text goes to details.jsonl: {"step": 200, "report/confusion": {"kind": "confusion", ...}}. The kinds:

    confusion    labels, matrix (row: truth, column: prediction)
    transitions  labels, between (row: from, column: to), start, end: scores of a CRF
    token_loss   texts: [{"tokens": [str], "losses": [nats or None]}]
    norms        groups, parameters, gradients, updates: Euclidean norms by layer
    attention    text, rows, columns (tokens), layers: [{"name": str, "heads": [weights by row and column]}]
    ranks        groups, ranks, most: how many ranks of each adapted matrix are in use, and could be
    histograms   groups: {name: {"edges": N + 1 numbers, "counts": N numbers}}

Numbers are written so that reading them gives the same bits. JSON has no NaN and no infinities: they are the strings "nan", "inf" and
"-inf", which `read` and Python's `float` turn back.

A resumed run's file equals the uninterrupted one's: lines after the step that it goes on from are dropped, and at that very step, which may
be logged again, a name is written only once.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from decoder_lab.core import writer
from decoder_lab.core.errors import UserError

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
DETAILS = "details.jsonl"
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclasses.dataclass
class Writer:
    """Every line is on its way to the disk when the call returns."""

    directory: pathlib.Path
    resume_step: int | None

    def __post_init__(self):
        directory = pathlib.Path(self.directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._metrics = _Lines(directory / METRICS, self.resume_step or 0)
        self._samples = _Lines(directory / SAMPLES, self.resume_step or 0)
        self._details = _Lines(directory / DETAILS, self.resume_step or 0, needed=False)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._metrics.write(step, {name: writer.plain(value) for name, value in values.items()})

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        self._samples.write(step, dict(texts))

    def details(self, step: int, found: Mapping[str, Mapping]) -> None:
        self._details.write(step, writer.plain(dict(found)))

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        """Nothing: progress is for the terminal."""

    def close(self) -> None:
        for lines in (self._metrics, self._samples, self._details):
            lines.close()


def read(path: str | pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a metrics.jsonl as dicts of numbers; a last line that is only half written yet is left out."""
    for _, values in _whole_lines(pathlib.Path(path)):
        yield {name: NOT_FINITE.get(value, value) if isinstance(value, str) else value for name, value in values.items()}


def read_records(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a samples.jsonl or details.jsonl as they are; [] where there is no such file."""
    path = pathlib.Path(path)
    return [values for _, values in _whole_lines(path)] if path.is_file() else []


class _Lines:
    """An append-only file of JSON lines that goes on from a step; one that is not `needed` begins with its first line."""

    def __init__(self, path: pathlib.Path, resume_step: int, needed: bool = True):
        self._path, self._resume_step, self._names = path, resume_step, set()
        lines = _whole_lines(path) if path.exists() else []
        kept = []
        for line, values in lines if resume_step else []:
            if values["step"] <= resume_step:
                kept.append(line)
            if values["step"] == resume_step:
                self._names |= set(values)
        if needed or path.exists():
            _replace(path, b"".join(kept))
        self._file = open(path, "ab", buffering=0) if needed else None

    def write(self, step: int, values: dict[str, Any]) -> None:
        if step == self._resume_step:
            values = {name: value for name, value in values.items() if name not in self._names}
        if values:
            line = json.dumps({"step": step, **values}, ensure_ascii=False, allow_nan=False)
            self._file = self._file or open(self._path, "ab", buffering=0)
            self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")  # what UTF-8 cannot hold becomes JSON's own escape

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _whole_lines(path: pathlib.Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Returns the lines that end, and what they say; a kill may leave one that does not.

    Errors: UserError for a whole line that is not JSON with a step.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            values = json.loads(line)
            values["step"]
        except (ValueError, KeyError, TypeError):
            where = f"{path}, line {number}: expected a JSON object with a step, got {line[:80]!r}."
            raise UserError(f"{where} Mend or delete the line.") from None
        found.append((line, values))
    return found


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Gives a file new contents at one moment: whoever reads it, or a kill, finds the old ones or the new ones."""
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
