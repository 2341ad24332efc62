"""A sweep's folder: everything that is known of its runs lies here, so a sweep can be killed at any moment and started again.

    sweep.json            what was declared
    records/NAME.json     a run: its arm, its command, what became of it; written whole or not at all
    runs/NAME/            the run, an ordinary workdir
    logs/NAME.log         what it printed
    claims/NAME.lock      locked by the process that has the run in hand; the system frees it when that process ends, even by kill -9;
                          .device-NAME.lock of a GPU, too
    commands-DIGEST.txt   of each submission to other machines: what its tasks start
    table.csv, .md, .html, runs.csv

Any number of sweep processes may work in one folder, on several machines too where they share it and its locks (`flock`).
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError

WAITING, RUNNING, DONE, FAILED, STOPPED, PRUNED = "waiting", "running", "done", "failed", "stopped", "pruned"
ENDED = (DONE, FAILED, PRUNED)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of one run.

    Attributes:
      number: runs start in this order.
      identity: of its config; see declaration.Run.
      total_steps: of the config; None where it is in epochs.
      source: the run that it goes on from, "NAME@STEP" of the same sweep or "/FOLDER@STEP" of another; see `Folder.source`.
      status: one of the names above; "running" of a run that nobody has in hand means that it was interrupted.
      reason: the last lines that a failed run printed.
      seconds, attempts: of all its processes together.
      trial: its number in a search.
    """

    name: str
    number: int
    arm: dict[str, Any]
    spec: str
    overrides: tuple[str, ...]
    source: str = ""
    identity: str = ""
    total_steps: int | None = None
    status: str = WAITING
    exit_code: int | None = None
    reason: tuple[str, ...] = ()
    seconds: float = 0.0
    attempts: int = 0
    host: str = ""
    trial: int | None = None


class Folder:
    """The files of a sweep."""

    def __init__(self, root: pathlib.Path):
        self.root = root

    def workdir(self, name: str) -> pathlib.Path:
        return self.root / "runs" / name

    def source(self, record: Record) -> str:
        """Returns "FOLDER@STEP" of the run that a run goes on from; "" where it begins by itself."""
        name, at, step = record.source.rpartition("@")
        return record.source if "/" in name or not at else f"{self.workdir(name)}@{step}"

    def log(self, name: str) -> pathlib.Path:
        return self.root / "logs" / f"{name}.log"

    @property
    def exists(self) -> bool:
        """Whether a sweep was begun here."""
        return (self.root / "sweep.json").is_file()

    def settings(self) -> dict[str, Any]:
        """Returns what `remember` wrote. Errors: UserError where there is no sweep."""
        if not self.exists:
            raise UserError(f"{self.root} holds no sweep (there is no sweep.json in it): say --config=FILE to begin one.")
        return read(self.root / "sweep.json")

    def remember(self, settings: dict[str, Any]) -> None:
        """Writes down what was declared."""
        write(self.root / "sweep.json", settings)

    def records(self) -> dict[str, Record]:
        """Returns {name: record} of all runs, in the order of their numbers; what runs ended with and nobody wrote down is found."""
        found = [self._read(path) for path in (self.root / "records").glob("*.json")] if (self.root / "records").is_dir() else []
        return {record.name: record for record in sorted(found, key=lambda r: (r.number, r.name))}

    def record(self, name: str) -> Record | None:
        """Returns a run's record as it is now; None where it was taken away."""
        path = self.root / "records" / f"{name}.json"
        return self._read(path) if path.is_file() else None

    def forget(self, name: str) -> None:
        """Takes away the record of a run that was never begun."""
        (self.root / "records" / f"{name}.json").unlink(missing_ok=True)

    def write(self, record: Record) -> None:
        """Writes a record at one moment."""
        write(self.root / "records" / f"{record.name}.json", dataclasses.asdict(record))

    def _read(self, path: pathlib.Path) -> Record:
        plain = read(path)
        try:
            record = Record(**{**plain, "overrides": tuple(plain["overrides"]), "reason": tuple(plain["reason"])})
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{path}: {error}: it is of another version of the lab. Go on with that one, or take another --workdir."
            ) from None
        if record.status not in ENDED and finished(self.workdir(record.name)):
            return dataclasses.replace(record, status=DONE, exit_code=0)
        return record

    def claim(self, name: str) -> "Claim | None":
        """Takes a run in hand, or returns None where another process has it."""
        return self._claim(f"{name}.lock")

    def claim_devices(self, devices: Sequence[str]) -> "list[Claim] | None":
        """Takes all of the devices, by what they are called on every machine, or returns None where another process has one."""
        taken: list[Claim] = []
        for device in devices:
            claim = self._claim(f".device-{device.replace('/', '-')}.lock")
            if claim is None:
                for other in taken:
                    other.release()
                return None
            taken.append(claim)
        return taken

    def _claim(self, name: str) -> "Claim | None":
        path = self.root / "claims" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not self._locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            os.close(file)
            return None
        return Claim(file)

    def _locked(self, file: int, how: int) -> bool:
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            return False
        except OSError as error:
            raise UserError(f"{self.root}: this file system has no locks (flock: {error.strerror}); take another --workdir.") from error
        return True

    def is_claimed(self, name: str) -> bool:
        """Whether a process has the run in hand."""
        claim = self.claim(name)
        if claim is not None:
            claim.release()
        return claim is None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no other process is inside: for reading and then writing what belongs together."""
        self.root.mkdir(parents=True, exist_ok=True)
        file = os.open(self.root / "sweep.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._locked(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


class Claim:
    """A run in hand, or a device; freed by `release`, and by the end of this process and of those that it gave `file` to."""

    def __init__(self, file: int):
        self.file = file

    def release(self) -> None:
        os.close(self.file)


def finished(workdir: pathlib.Path) -> bool:
    """Whether the run in a workdir says itself that it came to its end."""
    path = workdir / runtime.ENDED
    try:
        return path.is_file() and read(path)["exit_code"] == 0
    except (UserError, TypeError, KeyError):  # the power failed while it was written: the run goes on, and says it again
        return False


def read(path: pathlib.Path) -> Any:
    """Returns what a JSON file holds. Errors: UserError where it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}. Put it right, or take it away.") from error


def write(path: pathlib.Path, value: Any) -> None:
    """Writes JSON, or a text as it is, at one moment: whoever reads, or a kill, finds the old file or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(value if isinstance(value, str) else json.dumps(value, indent=1, default=repr) + "\n")
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
