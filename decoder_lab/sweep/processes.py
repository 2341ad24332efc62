"""A run as a process of its own: started, watched, stopped by SIGTERM so that it saves, and told by its exit code."""

import collections
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from decoder_lab.core import runtime
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.folder import Folder, Record

LOG_LINES = 8  # shown of a failed run
MOST_CHARACTERS = 300  # of the line that says why a run failed
LOG_BYTES = 20_000  # of a log's end that are looked at


def command(folder: Folder, record: Record) -> list[str]:
    """Returns the program of one run: python -m decoder_lab.main with its config, its workdir and its overrides."""
    config = [f"--config={record.spec}"] if record.spec else []
    changed = ["--allow_changes"] if record.source else []
    settings = [f"--config.{text}" for text in record.overrides]
    return [sys.executable, "-m", "decoder_lab.main", *config, f"--workdir={folder.workdir(record.name)}", *changed, *settings]


class Process:
    """A running run.

    Its output goes to a log. It is no part of this terminal's group: Ctrl-C reaches the sweep only, which passes it on. Where this process
    is killed, the system sends the run a SIGTERM (on Linux), so that it saves and ends. `keep` are open files that it inherits: what they
    lock stays locked until both processes are over.
    """

    def __init__(self, arguments: Sequence[str], log: pathlib.Path, environment: Mapping[str, str], keep: Sequence[int] = ()):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.began, self.asked_to_stop = log, time.monotonic(), False
        with open(log, "ab") as out:
            out.write(f"$ {shlex.join(arguments)}\n".encode())
            out.flush()
            self._process = subprocess.Popen(
                runtime.leashed(arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                pass_fds=tuple(keep),
            )

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Asks it once to save and to end."""
        if not self.asked_to_stop and self._process.poll() is None:
            self.asked_to_stop = True
            self._process.terminate()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def outcome(code: int, asked_to_stop: bool) -> str:
    """Returns what an exit code means: done, failed, or stopped (and to be gone on with).

    SIGTERM ends a run that is too young to save: whoever sent it, such as SLURM to all processes at once, wants it to go on later.
    """
    if code == 0:
        return folders.DONE
    if code in (runtime.EXIT_RESUMABLE, runtime.EXIT_IN_USE, -signal.SIGTERM) or (asked_to_stop and code == -signal.SIGKILL):
        return folders.STOPPED
    return folders.FAILED


def last_lines(log: pathlib.Path) -> tuple[str, ...]:
    """Returns the last lines of a log that say something."""
    if not log.is_file():
        return ()
    with open(log, "rb") as f:
        f.seek(max(0, log.stat().st_size - LOG_BYTES))
        text = f.read().decode(errors="replace")
    return tuple(
        collections.deque((line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("$ ")), maxlen=LOG_LINES)
    )


def why(code: int | None, reason: Sequence[str]) -> str:
    """Returns one line on why a run failed: its last line that names an error, or how it was ended."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    said = [line.strip() for line in reason] or ["it said nothing"]
    begins = [i for i, line in enumerate(said) if line.startswith("error:")]
    if begins:
        return " ".join(said[begins[-1] :])[:MOST_CHARACTERS]
    return ([line for line in said if "Error" in line] or said)[-1][:MOST_CHARACTERS]
