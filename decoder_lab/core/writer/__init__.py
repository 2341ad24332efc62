"""Where the numbers and texts of a run go. Each file but this one is a kind of writer; a run may have several at once.

A writer is `class Writer` with the fields `directory` (the workdir) and `resume_step` (the step that the run goes on from; 0 or None: from
scratch), given by the lab, and these methods:

    scalars(step, {name: number})           numbers after `step` updates
    text(step, {name: str})                 texts, such as samples
    details(step, {name: detail})           what is more than a number: plain data with a "kind" (`core/writer/jsonl.py` lists the kinds)
    progress(step, total, {name: number})   how far the run is; called often, cheap
    stopped()                               where there is such a method: a signal ended the run, which goes on later; `close` follows
    close()                                 also while an exception ends the run

What is true of step s is written before the checkpoint of s is: then a run that is killed and resumed writes what the uninterrupted one
would have.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any


class Writers:
    """Passes everything on to several writers."""

    def __init__(self, writers: Iterable[Any]):
        self._writers = list(writers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(step, values)

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        for writer in self._writers:
            writer.text(step, texts)

    def details(self, step: int, found: Mapping[str, Mapping]) -> None:
        for writer in self._writers:
            writer.details(step, found)

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.progress(step, total, info)

    def stopped(self) -> None:
        """Tells those that want to know that the run ends on its way, saved, to go on later."""
        for writer in self._writers:
            getattr(writer, "stopped", lambda: None)()

    def close(self) -> None:
        """Closes all of them, also when one fails to, and then raises what failed."""
        with contextlib.ExitStack() as stack:
            for writer in reversed(self._writers):
                stack.callback(writer.close)


def hyperparameters(directory: str | pathlib.Path) -> dict[str, int | float | str | bool]:
    """Returns the settings of the run in a folder, {"model.kw.width": 64, ...}, as trackers show them; {} where it has no config.json.

    What is no number, text or truth value is written as JSON.
    """
    path = pathlib.Path(directory) / "config.json"
    return dict(_flat("", json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else {}


def plain(value: Any) -> Any:
    """Returns dicts, sequences, arrays and numbers as JSON can hold them; what is not finite as "nan", "inf", "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "ndim") and value.ndim:
        return plain(value.tolist())
    value = float(value)  # of arrays of one element and numpy's numbers too
    return value if math.isfinite(value) else str(value)


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, value if isinstance(value, bool | int | float | str) else json.dumps(value, ensure_ascii=False)
