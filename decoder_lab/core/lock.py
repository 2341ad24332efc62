"""One run at a time in a folder, on any file system that machines may share.

The lock is a file that appears whole, by one hard link, and that its holder renews: it counts up in it. Who finds the lock held asks
whether the holder lives. On the same machine the system knows. Of another machine the file is watched for some time by this machine's own
clock: one that is not renewed is over. Clocks of two machines are never compared, and no lock of the system is needed, which network file
systems may lack or forget. A holder that was asleep for so long that it was taken for dead ends as soon as it sees that.
"""

import contextlib
import errno
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError

LOCK = "run.lock"
BEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # network file systems may show a file as it was up to this long ago
UNREADABLE_SECONDS = 3.0  # of a file that is no lock of this kind: time enough to finish writing one
JOB_VARIABLE = "DECODER_LAB_JOB"  # "name#number": an attempt may take over from an earlier one of the same name at once
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
ATTEMPTS = 5
COUNT_WIDTH = 12


class InUse(UserError):
    """Another process works in the workdir."""

    exit_code = runtime.EXIT_IN_USE


class RunLock:
    """`with RunLock(workdir):` one process at a time works in a workdir; a lock whose holder is dead is taken over, and that is said.

    Args:
      workdir: made if it is not there.
      report: takes one line for the user.
      beat, silent: seconds between two renewals, and after how many without one a holder on another machine counts as dead.
    Errors: UserError that names the process and the host that hold it, and since when.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        report: Callable[[str], None] = print,
        beat: float = BEAT_SECONDS,
        silent: float = SILENT_SECONDS,
    ):
        self._path = pathlib.Path(workdir) / LOCK
        self._report, self._beat, self._silent = report, beat, silent
        self._about = {"id": uuid.uuid4().hex, "pid": os.getpid(), **_here(), "job": job(os.environ)}
        self._about |= {"since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        self._count = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "RunLock":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise UserError(f"--workdir: {self._path.parent} cannot be made or written to: {error.strerror}.") from error
        self._thread = threading.Thread(target=self._renew, name="run lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # a lock that stays is taken over: this process is over in a moment
            if (held := _read(self._path)) and held["id"] == self._about["id"]:
                self._path.unlink(missing_ok=True)

    def _take(self) -> None:
        for _ in range(ATTEMPTS):
            if self._created():
                return
            if (held := _read(self._path)) is not None:
                self._take_away(held, self._why_over(held))
        raise UserError(f"{self._path.parent}: several processes want it at this moment; try again, or take another --workdir.")

    def _created(self) -> bool:
        """Makes the lock file with its contents, if there is none."""
        own = self._path.with_name(f".{LOCK}.{self._about['id']}")
        own.write_bytes(self._contents())
        try:
            os.link(own, self._path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            try:
                with open(self._path, "xb") as file:
                    file.write(self._contents())
            except FileExistsError:
                return False
        finally:
            own.unlink()
        return True

    def _contents(self) -> bytes:
        return f"{self._count:0{COUNT_WIDTH}d}\n{json.dumps(self._about)}\n".encode()

    def _why_over(self, held: dict[str, Any]) -> str:
        """Returns why the holder is dead. Errors: UserError where it is alive."""
        if _known_here(held):
            if _alive(held):
                raise self._in_use(held)
            return "that process is over"
        (name, _, attempt), (own, _, own_attempt) = ((text or "").partition("#") for text in (held.get("job"), self._about["job"]))
        if name and name == own and _earlier(attempt, own_attempt):
            return f"that was attempt {attempt} of the job {name}, this is attempt {own_attempt}"
        wait = self._silent if held["id"] else min(self._silent, UNREADABLE_SECONDS)
        self._report(f"{self._path.parent} is held by {_named(held)}: watching for {wait:.0f} s whether that still lives")
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            time.sleep(min(1.0, wait / 10))
            now = _read(self._path)
            if now is None or now["id"] != held["id"]:
                return "it was given back"
            if now["count"] != held["count"]:
                raise self._in_use(held)
        return f"it gave no sign of life for {wait:.0f} s"

    def _take_away(self, held: dict[str, Any], why: str) -> None:
        away = self._path.with_name(f".{LOCK}.over.{self._about['id']}")
        try:
            os.rename(self._path, away)  # one of several who want it succeeds
        except FileNotFoundError:
            return
        found = _read(away)
        if found is not None and found["id"] != held["id"]:  # of one who was faster
            os.rename(away, self._path)
            raise self._in_use(found)
        away.unlink()
        self._report(f"{self._path.parent}: took over the lock of {_named(held)}: {why}")

    def _in_use(self, held: dict[str, Any]) -> InUse:
        return InUse(
            f"{self._path.parent} is in use by {_named(held)}. Wait for it, stop it, or take another --workdir. "
            f"If you are sure that it is over: rm {self._path.absolute()}"
        )

    def _renew(self) -> None:
        while not self._stop.wait(self._beat):
            with contextlib.suppress(OSError):  # gone, or a file server that does not answer now: the next beat tries again
                self._renew_once()

    def _renew_once(self) -> None:
        held = _read(self._path)
        if held is not None and held["id"] != self._about["id"]:
            line = f"error: {self._path.parent} was taken over by {_named(held)}, as this process gave no sign of life: it ends here.\n"
            try:
                os.write(2, line.encode())
            finally:
                os._exit(2)
        self._count += 1
        file = os.open(self._path, os.O_WRONLY)
        try:
            os.pwrite(file, f"{self._count:0{COUNT_WIDTH}d}".encode(), 0)
        finally:
            os.close(file)


def held_here(workdir: pathlib.Path) -> bool:
    """Whether a living process of this machine holds a workdir's lock. Only looks; of another machine's process it knows nothing."""
    held = _read(workdir / LOCK)
    return held is not None and _known_here(held) and _alive(held)


def job(environment: Mapping[str, str]) -> str | None:
    """Returns "name#attempt" of the job that this process is part of, None where nothing says so."""
    if environment.get(JOB_VARIABLE):
        return environment[JOB_VARIABLE]
    if environment.get("SLURM_JOB_ID"):
        return f"slurm {environment['SLURM_JOB_ID']}#{environment.get('SLURM_RESTART_COUNT', '0')}"
    return None


def _earlier(attempt: str, own: str) -> bool:
    """Whether an attempt came before the own one, by its number: "2", or "2.PID". What has no number is not known to."""
    numbers = [text.partition(".")[0] for text in (attempt, own)]
    return all(number.isdecimal() for number in numbers) and int(numbers[0]) < int(numbers[1])


def _named(held: dict[str, Any]) -> str:
    return f"process {held['pid']} on {held['host']}, since {held['since']}"


def _here() -> dict[str, Any]:
    """Returns what tells this process's machine, its last start, and its table of processes from others."""
    boot, namespace = pathlib.Path("/proc/sys/kernel/random/boot_id"), pathlib.Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else None,
        "namespace": os.readlink(namespace) if namespace.is_symlink() else None,
        "started": _started(os.getpid()),
    }


def _known_here(held: dict[str, Any]) -> bool:
    """Whether the system knows of a lock's holder: of this machine, since its last start."""
    here = _here()
    return all(held.get(name) == here[name] for name in ("host", "boot", "namespace"))


def _alive(held: dict[str, Any]) -> bool:
    return _started(held["pid"]) == held.get("started")


def _started(pid: int) -> str | None:
    """Returns when a process of this machine began, in the system's own count; None for one that is over."""
    if not sys.platform.startswith("linux"):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "alive"
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Returns what stands in a lock file and its "count", None where there is none."""
    for _ in range(3):
        try:
            count, _, about = path.read_text(encoding="utf-8").partition("\n")
            return json.loads(about) | {"count": count}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            time.sleep(0.2)  # without hard links it may be read while it is written
    return {"id": "", "pid": "?", "host": "an unknown host", "since": "an unknown time", "count": path.stat().st_mtime_ns}
