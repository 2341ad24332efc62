"""Ends a run that hangs: a collective operation that somebody never joined, a file server that does not answer.

A thread looks at how long what the loop does now has lasted. After a fifth of the patience it says so, after all of it what hung, for how
long and where in the program, and ends the process; nothing else could, as the thread that hangs is inside compiled code.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

NOTICE = 5  # the part of the patience after which a line is said
OWN = "decoder_lab"  # frames of the stack that are shown
LOOKS = 50  # as often as this in the time of the patience


class Watchdog:
    """`with Watchdog(...) as dog:` and `dog.doing("step 12")` before everything that may hang.

    Args:
      patience: seconds that a thing may take; None: nothing is watched.
      end: called with the text when it is used up; must end the process.
      report: takes a line for the user.
    """

    def __init__(self, patience: float | None, end: Callable[[str], None], report: Callable[[str], None] = print):
        self._patience, self._end, self._report = patience, end, report
        self._now: tuple[str, float, float] = ("the start", time.monotonic(), 1.0)
        self._stop = threading.Event()
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def doing(self, what: str, times: float = 1.0) -> None:
        """Says what begins now; it may last `times` the patience. A few nanoseconds: the thread only looks at it."""
        self._now = (what, time.monotonic(), times)

    def __enter__(self) -> "Watchdog":
        if self._patience:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        if self._patience:
            self._thread.join()

    def _watch(self) -> None:
        told = None
        while not self._stop.wait(self._patience / LOOKS):
            what, began, times = now = self._now
            lasted, most = time.monotonic() - began, self._patience * times
            if lasted > most:
                frames = traceback.extract_stack(sys._current_frames()[self._main])
                own = [frame for frame in frames[:-1] if OWN in frame.filename]  # and where it waits, in whatever library that is
                where = "".join(traceback.format_list([*own, *frames[-1:]]))
                self._end(f"{what} has not ended within {lasted:.0f} s (--patience={self._patience:g}). It hangs here:\n{where}")
                return
            if lasted > most / NOTICE and told is not now:
                told = now
                self._report(f"{what} has been under way for {lasted:.0f} s; after {most:.0f} s the run ends, to be started again")
