"""Where the numbers and texts of a run go. Each file but this one is a kind of writer; a run may have several at once.

A writer is `class Writer` with the fields `directory` (the workdir) and `resume_step` (the step that the run goes on from; 0 or None: from
scratch), given by the lab, and these methods:

    scalars(step, {name: number})           numbers after `step` updates
    text(step, {name: str})                 texts, such as samples
    progress(step, total, {name: number})   how far the run is; called often, cheap
    close()

What is true of step s is written before the checkpoint of s is: then a run that is killed and resumed writes what the uninterrupted one
would have.
"""

import contextlib
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

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.progress(step, total, info)

    def close(self) -> None:
        """Closes all of them, also when one fails to, and then raises what failed."""
        with contextlib.ExitStack() as stack:
            for writer in reversed(self._writers):
                stack.callback(writer.close)
