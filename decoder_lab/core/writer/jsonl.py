"""metrics.jsonl, the source of truth about a run: one JSON object a line, {"step": 200, "train/loss": 1.234}. Texts go to samples.jsonl.

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

from decoder_lab.core.errors import UserError

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
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

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._metrics.write(step, {name: _plain(value) for name, value in values.items()})

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        self._samples.write(step, dict(texts))

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        """Nothing: progress is for the terminal."""

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()


def read(path: str | pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a metrics.jsonl as dicts of numbers; a last line that is only half written yet is left out."""
    for line in _whole_lines(pathlib.Path(path)):
        yield {name: NOT_FINITE.get(value, value) if isinstance(value, str) else value for name, value in json.loads(line).items()}


class _Lines:
    """An append-only file of JSON lines that goes on from a step."""

    def __init__(self, path: pathlib.Path, resume_step: int):
        self._resume_step, self._names = resume_step, set()
        lines = _whole_lines(path) if path.exists() else []
        kept = []
        for line in lines if resume_step else []:
            values = json.loads(line)
            if values["step"] <= resume_step:
                kept.append(line)
            if values["step"] == resume_step:
                self._names |= set(values)
        _replace(path, b"".join(kept))
        self._file = open(path, "ab", buffering=0)

    def write(self, step: int, values: dict[str, Any]) -> None:
        if step == self._resume_step:
            values = {name: value for name, value in values.items() if name not in self._names}
        if values:
            line = json.dumps({"step": step, **values}, ensure_ascii=False, allow_nan=False)
            self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")  # what UTF-8 cannot hold becomes JSON's own escape

    def close(self) -> None:
        self._file.close()


def _plain(value: Any) -> int | float | str:
    """Returns a number as JSON can hold it; arrays of one element and numpy's numbers become Python's."""
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _whole_lines(path: pathlib.Path) -> list[bytes]:
    """Returns the lines that end; a kill may leave one that does not. Errors: UserError for a whole line that is not JSON with a step."""
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            found = f"{path}, line {number}: expected a JSON object with a step, got {line[:80]!r}."
            raise UserError(f"{found} Mend or delete the line.") from None
    return lines


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
