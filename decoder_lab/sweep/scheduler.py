"""Runs in slots: the next one is started where a slot is free, what ended is written down, a stop signal is passed on.

What there is to run is a `Jobs`: the runs that were declared (here), or the trials of a search (`search.py`).
"""

import dataclasses
import fnmatch
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from decoder_lab.core import config as config_lib
from decoder_lab.core import lock, runtime
from decoder_lab.core.errors import UserError, nearest
from decoder_lab.sweep import branching, declaration, processes
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.declaration import Run
from decoder_lab.sweep.folder import Claim, Folder, Record
from decoder_lab.sweep.slots import Slot

POLL_SECONDS = 0.1
VIEW_SECONDS = 0.5
ASK_SECONDS = 1.0  # until a process with nothing to start looks again
FAILURE = 1


class Jobs(Protocol):
    """What there is to run."""

    def next(self) -> tuple[Record, Claim] | None:
        """Takes one run in hand, or returns None where none can be started now."""

    def finished(self) -> bool:
        """Whether nothing is left to start, here or after other processes' runs."""

    def watch(self, record: Record) -> bool:
        """Called now and then for each running run: whether it shall be stopped for good."""

    def ended(self, record: Record) -> Record:
        """Takes a run that ended; returns its record as it shall be kept."""


@dataclasses.dataclass
class Active:
    """A run in a slot."""

    record: Record
    claim: Claim
    process: Any
    slot: Slot
    devices: Sequence[Claim]
    given_up: bool = False


class Declared:
    """The runs of a declaration that are not done yet, in order; those that begin with another's checkpoint wait for it."""

    def __init__(self, folder: Folder, names: Sequence[str], retry: bool = False):
        self.folder, self.left = folder, list(names)
        self._retry = set(names) if retry else set()

    def next(self) -> tuple[Record, Claim] | None:
        for name in list(self.left):
            claim = self.folder.claim(name)
            if claim is None:
                continue
            record = self.folder.record(name)  # read when nobody else can write it
            if record is None:  # no longer wanted
                self.left.remove(name)
            elif record.status in folders.ENDED and not (record.status == folders.FAILED and name in self._retry):
                self.left.remove(name)
            elif not self._comes(record):
                self.left.remove(name)
            elif not lock.held_here(self.folder.workdir(name)) and self._ready(record):
                self.left.remove(name)
                self._retry.discard(name)
                return record, claim
            claim.release()
        return None

    def _ready(self, record: Record) -> bool:
        parent = awaited(self.folder, record)
        return parent is None or parent.status in folders.ENDED  # if it ended without that checkpoint, starting this one says so

    def _comes(self, record: Record) -> bool:
        """Whether what a run waits for is there, or is going to be: not of a run that was stopped, or left out by --only."""
        parent = awaited(self.folder, record)
        return parent is None or parent.status in folders.ENDED or parent.name in self.left or self.folder.is_claimed(parent.name)

    def finished(self) -> bool:
        return not self.left

    def watch(self, record: Record) -> bool:
        return False

    def ended(self, record: Record) -> Record:
        return record


def awaited(folder: Folder, record: Record) -> Record | None:
    """Returns the run of the same folder whose checkpoint a run waits for, None where it waits for none."""
    source = folder.source(record)
    if not source or folder.workdir(record.name).exists() or branching.ready(source):
        return None
    parent = branching.parts(source)[0]
    return folder.record(parent.name) if parent.parent == folder.root / "runs" else None


def begun(folder: Folder) -> dict[str, str]:
    """Returns {identity: name} of the runs that were begun, by what the lab makes of their configs today."""
    found = {}
    for name, record in folder.records().items():
        saved = folder.workdir(name) / "config.json"
        if record.status != folders.WAITING and saved.is_file() and not record.source:  # a branch has that of its source for a while
            try:
                found[declaration.identity(config_lib.from_json(saved.read_text()), record.source)] = name
            except (UserError, ValueError):  # it has settings that the lab no longer knows, or cannot be read
                found[record.identity] = name
        elif record.status != folders.WAITING:
            found[record.identity] = name
    return found


def declare(folder: Folder, runs: Sequence[Run]) -> list[str]:
    """Writes down the runs that the folder does not have yet, and drops those that nobody wants any more and that were never begun.

    Returns the names of all. Errors: UserError for a run that was begun with another config.
    """
    with folder.alone():
        known, same = folder.records(), begun(folder)
        if wrong := [line for run in runs for line in _changed(folder, run, known.get(run.name), same)]:
            raise UserError("\n".join([f"{folder.root}: runs in it were begun with another config:", *wrong, "Take another --workdir."]))
        first = max((r.number + 1 for r in known.values()), default=0)
        for i, run in enumerate(runs):
            _write_down(folder, run, first + i)
        for name in known.keys() - {run.name for run in runs}:
            if known[name].status == folders.WAITING and (claim := _claim(folder, name)):
                if (now := folder.record(name)) and now.status == folders.WAITING:
                    folder.forget(name)
                claim.release()
    return [run.name for run in runs]


def _write_down(folder: Folder, run: Run, number: int) -> None:
    """Writes a run's record, if it says something new. What became of the run stays, as does the record of one in another's hands."""
    claim = _claim(folder, run.name)
    if claim is None:
        return
    before = folder.record(run.name)
    total = run.config.total_steps if run.config.total_epochs is None else None
    about = dict(arm=_plain(run.arm), spec=run.spec, overrides=run.overrides, source=run.source, identity=run.identity, total_steps=total)
    if before is None or before.status == folders.WAITING:
        now = Record(run.name, number=number if before is None else before.number, **about)
    else:
        now = dataclasses.replace(before, **about)
    if now != before:
        folder.write(now)
    claim.release()


def _claim(folder: Folder, name: str) -> Claim | None:
    """Takes a run in hand once others who only look whether it can be begun have left it; None of one that another process runs."""
    while (claim := folder.claim(name)) is None:
        record = folder.record(name)
        if record is not None and record.status != folders.WAITING:
            return None
        time.sleep(POLL_SECONDS)
    return claim


def _changed(folder: Folder, run: Run, before: Record | None, same: Mapping[str, str]) -> list[str]:
    """Returns a line for each setting of a run that was begun otherwise."""
    if before is None or before.status == folders.WAITING or same.get(run.identity) == run.name:
        return []
    saved = folder.workdir(run.name) / "config.json"
    try:
        lines = config_lib.differences(config_lib.from_json(saved.read_text()), run.config) if saved.is_file() else []
    except ValueError:
        lines = [f"{saved} cannot be read; take that run's folder away to run it anew"]
    return [f"  - {run.name}: {line}" for line in lines]


def _plain(arm: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in arm.items()}


def chosen(names: Sequence[str], only: Sequence[str]) -> list[str]:
    """Returns the names that `only` says: names, globs, numbers from 0. Errors: UserError for one that says none."""
    wanted: dict[str, None] = {}
    for text in [part.strip() for item in only for part in item.split(",") if part.strip()]:
        exact = [text] if text in names else [names[int(text)]] if text.isdecimal() and int(text) < len(names) else []
        found = exact or fnmatch.filter(names, text)
        if not found:
            raise UserError(f'--only: no run is called "{text}".{nearest(text, names)} --list shows them all.')
        wanted |= dict.fromkeys(found)
    return [name for name in names if name in wanted] if wanted else list(names)


class Scheduler:
    """Keeps the slots busy until nothing is left.

    Args:
      view: has `update(active, force)` and `line(text)`; see `live.py`.
      command: (folder, record) -> the program of a run; another one in tests.
    """

    def __init__(
        self, folder: Folder, slots: Sequence[Slot], jobs: Jobs, view: Any, command: Callable[[Folder, Record], list[str]] | None = None
    ):
        self.folder, self.jobs, self.view = folder, jobs, view
        self.free = list(slots)
        self.command = command or processes.command
        self.active: list[Active] = []
        self._asked = 0.0  # when there was nothing to start

    def run(self) -> None:
        """Runs everything; returns when all has ended, or has saved and stopped after a signal."""
        try:
            with runtime.StopSignals() as stop:
                self._loop(stop)
        except BaseException:
            for run in self.active:
                run.process.stop()
            raise
        self.view.update([])

    def _loop(self, stop: runtime.StopSignals) -> None:
        shown, waiting = 0.0, False
        while True:
            while self.free and not stop.requested and self._start():
                pass
            if not self.active and (stop.requested or self.jobs.finished()):
                return
            if not self.active and not waiting:
                self.view.line("waiting for runs or devices that other processes have in hand")
            waiting = not self.active
            for run in self.active if stop.requested else ():
                run.process.stop()
            self._collect()
            if time.monotonic() - shown >= VIEW_SECONDS:
                self._watch()
                self.view.update(self.active)
                shown = time.monotonic()
            if self.active or not self.jobs.finished():
                time.sleep(POLL_SECONDS)

    def _start(self) -> bool:
        """Starts the next run in a free slot; returns whether there was one."""
        if time.monotonic() - self._asked < ASK_SECONDS:
            return False
        found = ((slot, devices) for slot in self.free if (devices := self.folder.claim_devices(slot.devices)) is not None)
        slot, devices = next(found, (None, ()))  # none where other processes have all devices
        taken = self.jobs.next() if slot else None
        if taken is None:
            self._asked = time.monotonic()
            for device in devices:
                device.release()
            return False
        record, claim = taken
        self.free.remove(slot)
        record = dataclasses.replace(
            record, status=folders.RUNNING, attempts=record.attempts + 1, host=socket.gethostname(), exit_code=None, reason=()
        )
        self.folder.write(record)
        try:
            if record.source:
                branching.prepare(self.folder.source(record), self.folder.workdir(record.name), _schedule(record))
            log, keep = self.folder.log(record.name), [device.file for device in devices]
            process = processes.Process(self.command(self.folder, record), log, slot.environment, keep)
        except (UserError, OSError) as error:
            self._leave(slot, devices)
            reason = tuple(f"error: {error}".splitlines())
            self._keep(dataclasses.replace(record, status=folders.FAILED, exit_code=2, reason=reason), claim)
            return True
        self.active.append(Active(record, claim, process, slot, devices))
        self.view.started(record, slot)
        return True

    def _leave(self, slot: Slot, devices: Sequence[Claim]) -> None:
        """Gives a slot and its devices to whoever comes next."""
        for device in devices:
            device.release()
        self.free = sorted([*self.free, slot], key=lambda slot: slot.number)

    def _collect(self) -> None:
        """Writes down what became of the processes that ended."""
        for run in list(self.active):
            code = run.process.poll()
            if code is None:
                continue
            self.active.remove(run)
            self._asked = 0.0  # what waited for it may begin
            self._leave(run.slot, run.devices)
            status = processes.outcome(code, run.process.asked_to_stop)
            status = folders.PRUNED if run.given_up and status == folders.STOPPED else status
            says_why = status == folders.FAILED or code == runtime.EXIT_IN_USE
            reason = processes.last_lines(run.process.log) if says_why else ()
            seconds = run.record.seconds + run.process.seconds
            self._keep(dataclasses.replace(run.record, status=status, exit_code=code, reason=reason, seconds=round(seconds, 2)), run.claim)

    def _keep(self, record: Record, claim: Claim) -> None:
        record = self.jobs.ended(record)
        self.folder.write(record)
        claim.release()
        self.view.ended(record)

    def _watch(self) -> None:
        for run in self.active:
            if not run.process.asked_to_stop and self.jobs.watch(run.record):
                run.given_up = True
                run.process.stop()


def _schedule(record: Record) -> str:
    """Returns the schedule that a cooldown's arm says, to be checked against the run that it comes from."""
    return "warmup_stable_decay" if "schedule.kw.decay" in record.arm else ""


def exit_code(records: Sequence[Record]) -> int:
    """Returns 0 where all runs are done, 1 where one failed, 75 where some are left."""
    if any(record.status == folders.FAILED for record in records):
        return FAILURE
    return 0 if all(record.status in folders.ENDED for record in records) else runtime.EXIT_RESUMABLE


def failures(records: Sequence[Record]) -> list[str]:
    """Returns one line for each run that failed."""
    return [
        f"{record.name} failed with exit code {record.exit_code}: {processes.why(record.exit_code, record.reason)}"
        for record in records
        if record.status == folders.FAILED
    ]
