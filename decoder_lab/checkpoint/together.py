"""What all processes of a run do as one in saving and checking: where it fails in one, it has failed in all, and all know why.

Process 0 makes the directory and completes it; each writes its pieces of the arrays, and flushes, sums up and checks its share of files.
"""

import pathlib
import traceback
from typing import Any

from decoder_lab.checkpoint import snapshot
from decoder_lab.checkpoint.shelf import Shelf
from decoder_lab.parallel import processes

MOST_ERROR_CHARACTERS = 300  # Orbax repeats long paths several times


def make_room(shelf: Shelf, temporary: pathlib.Path) -> str:
    """Makes the directory to write into; returns what went wrong, "" for nothing."""
    with _Attempt() as attempt:
        if processes.first():
            shelf.directory.mkdir(parents=True, exist_ok=True)
            shelf.sweep()
            temporary.mkdir()
    return processes.share("checkpoint begins", attempt.problem)


def complete(shelf: Shelf, response: Any, step: int, temporary: pathlib.Path, forms: dict[str, Any], about: dict[str, Any]) -> str:
    """Waits for Orbax's response, makes everything durable and gives the checkpoint its real name; returns what went wrong."""
    files: dict[str, list[int]] = {}
    with _Attempt() as writing:
        response.result()
    if writing.problem and processes.count() > 1:  # the others wait for it inside Orbax, and would for many minutes
        processes.give_up(
            f"checkpoint {step} in {shelf.directory} could not be saved by process {processes.index()} on "
            f"{processes.host(processes.index())}: {writing.problem[:MOST_ERROR_CHARACTERS]}. Is the disk full? Older ones are intact."
        )
    with _Attempt() as flushing:
        if not writing.problem:
            files = snapshot.flush(temporary, processes.index(), processes.count())
    parts = processes.gather("checkpoint written", [files, writing.problem or flushing.problem])
    problem = next((said for _, said in parts if said), "")
    with _Attempt() as sealing:
        if processes.first() and not problem:
            if step in shelf.steps():
                shelf.drop(step)
            snapshot.seal(temporary, shelf.path(step), forms, {name: of for own, _ in parts for name, of in own.items()}, **about)
    return processes.share("checkpoint sealed", problem or sealing.problem)


def keep(shelf: Shelf, step: int) -> str:
    """Drops what need not stay beside the checkpoint of `step`; returns what went wrong."""
    with _Attempt() as attempt:
        if processes.first():
            shelf.retain(step)
    return processes.share("checkpoint kept", attempt.problem)


def check(directory: pathlib.Path) -> tuple[dict[str, Any] | None, str]:
    """Returns (record, what is damaged) of a checkpoint, every file of which one of the processes has read."""
    record, problem = None, ""
    try:
        record = snapshot.check(directory, processes.index(), processes.count())
    except snapshot.Damaged as damage:
        problem = str(damage)
    return record, next((said for said in processes.gather("checkpoint checked", problem) if said), "")


class _Attempt:
    """`with _Attempt() as attempt:` what goes wrong inside is kept as `problem`, to be told to all processes.

    Whatever it is: an error in one process that the others do not hear of is a hang. What no disk explains is shown with its traceback.
    """

    problem = ""

    def __enter__(self) -> "_Attempt":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> bool:
        if isinstance(error, Exception):
            self.problem = str(error) or type(error).__name__
            if not isinstance(error, OSError):
                traceback.print_exception(error)
        return isinstance(error, Exception)
