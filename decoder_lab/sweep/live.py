"""What a sweep shows while it goes: a table that renews itself on a terminal, a line for each event elsewhere."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from decoder_lab.sweep import branching, naming, processes
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.folder import Folder, Record
from decoder_lab.sweep.following import Following, Objective
from decoder_lab.sweep.slots import Slot

BAR = 12
TOTAL = re.compile(r"step \d+/(\d+)")  # of the lab's console writer


class Progress:
    """How far the runs of a sweep are, read from their folders.

    Args:
      names: of all runs that this process shall see ended; a search adds to them as it goes (`expected` is how many there will be).
    """

    def __init__(self, folder: Folder, objective: Objective, names: Sequence[str], expected: int = 0):
        self.folder, self.objective = folder, objective
        self.names, self.expected = dict.fromkeys(names), expected or len(names)
        self._following: dict[str, Following] = {}
        self._totals: dict[str, int] = {}
        records = folder.records()
        self.records = {name: records[name] for name in names if name in records}
        self.best: tuple[str, float] | None = None
        for record in self.records.values():
            if record.status in folders.ENDED:
                self._note_best(record.name)

    def note(self, record: Record) -> None:
        """Takes a record that is new or has changed."""
        self.names[record.name] = None
        self.records[record.name] = record
        self._note_best(record.name)

    def following(self, name: str) -> Following:
        """The run's numbers, as they are now."""
        if name not in self._following:
            self._following[name] = Following(self.folder.workdir(name) / "metrics.jsonl", [self.objective.name])
        return self._following[name].read()

    def value(self, name: str) -> float | None:
        """The objective of a run so far."""
        return self.objective.of(self.following(name).series(self.objective.name))

    def _note_best(self, name: str) -> None:
        value = self.value(name)
        if value is not None and (self.best is None or self.objective.better(value, self.best[1])):
            self.best = (name, value)

    def steps(self, record: Record) -> tuple[int, int | None]:
        """Returns (steps done, steps in all or None where that is not known yet)."""
        if record.total_steps is not None:
            self._totals[record.name] = record.total_steps
        elif record.name not in self._totals and self.folder.log(record.name).is_file():
            with open(self.folder.log(record.name), errors="replace") as f:
                if match := TOTAL.search(f.read(processes.LOG_BYTES)):
                    self._totals[record.name] = int(match[1])
        return self.following(record.name).step, self._totals.get(record.name)

    def share(self, record: Record) -> float:
        """Returns which share of a run, in [0, 1], is done; of a branch, what is its own."""
        if record.status in folders.ENDED:
            return 1.0
        step, total = self.steps(record)
        first = branching.parts(record.source)[1] if record.source else 0
        return min(max((step - first) / max(total - first, 1), 0.0), 1.0) if total else 0.0

    def counts(self) -> dict[str, int]:
        """Returns {status: how many runs}."""
        found: dict[str, int] = {}
        for record in self.records.values():
            found[record.status] = found.get(record.status, 0) + 1
        found[folders.WAITING] = max(self.expected - sum(n for s, n in found.items() if s != folders.WAITING), 0)
        return {status: count for status, count in found.items() if count}

    def seconds_left(self, active: Sequence[Any], slots: int) -> float | None:
        """Returns an estimate from the time that what is done took; None before there is any."""
        done = {r.name: r.seconds for r in self.records.values() if r.status == folders.DONE and r.seconds}
        shares = {run.record.name: (self.share(run.record), run.record.seconds + run.process.seconds) for run in active}
        whole, seconds = len(done) + sum(s for s, _ in shares.values()), sum(done.values()) + sum(t for _, t in shares.values())
        if whole < 0.05:
            return None
        left = self.counts().get(folders.WAITING, 0) + sum(1 - s for s, _ in shares.values())
        return left * seconds / whole / max(slots, 1)


class Lines:
    """A line for each event, for logs and pipes."""

    def __init__(self, progress: Progress, slots: Sequence[Slot]):
        self.progress, self.slots = progress, slots
        self._active = 0

    def line(self, text: str) -> None:
        """Says something."""
        print(text, flush=True)

    def started(self, record: Record, slot: Slot) -> None:
        """Says that a run was started."""
        self.progress.note(record)
        self._active += 1
        again = f", attempt {record.attempts}" if record.attempts > 1 else ""
        self.line(f"started  {record.name} in slot {slot.number} ({slot.has}){again}")

    def ended(self, record: Record) -> None:
        """Says what became of a run; of one that failed, its last lines."""
        self.progress.note(record)
        self._active = max(self._active - 1, 0)
        value = self.progress.value(record.name)
        number = f"  {self.progress.objective.name} {value:.4f}" if value is not None else ""
        done = sum(r.status in folders.ENDED for r in self.progress.records.values())
        self.line(f"{record.status:8} {record.name}{number}  {_duration(record.seconds)}  ({done} of {self.progress.expected})")
        for text in record.reason:
            self.line(f"  | {text}")

    def update(self, active: Sequence[Any]) -> None:
        """Nothing: every event had its line."""

    def close(self) -> None:
        """Nothing is left open."""


class Table(Lines):
    """A table on the terminal; events that people must not miss stand above it."""

    def __init__(self, progress: Progress, slots: Sequence[Slot]):
        super().__init__(progress, slots)
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def started(self, record: Record, slot: Slot) -> None:
        self.progress.note(record)

    def ended(self, record: Record) -> None:
        if record.status == folders.FAILED:
            super().ended(record)
        else:
            self.progress.note(record)

    def update(self, active: Sequence[Any]) -> None:
        self._live.update(render(self.progress, active, len(self.slots)), refresh=True)

    def close(self) -> None:
        self._live.stop()


def render(progress: Progress, active: Sequence[Any], slots: int) -> Any:
    """Returns the table as rich shows it."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False)
    name = progress.objective.name
    for title, kw in (("slot", {}), ("run", dict(overflow="fold")), ("progress", {}), (name, dict(justify="right")), ("time", {})):
        table.add_column(title, **kw)
    for run in sorted(active, key=lambda run: run.slot.number):
        step, total = progress.steps(run.record)
        filled = round(BAR * progress.share(run.record))
        value = progress.value(run.record.name)
        bar = f"[{'#' * filled}{'.' * (BAR - filled)}] {step}/{total or '?'}"
        cells = (str(run.slot.number), run.record.name, bar, "" if value is None else f"{value:.4f}", _duration(run.process.seconds))
        table.add_row(*(Text(cell) for cell in cells))
    counts = ", ".join(f"{count} {status}" for status, count in progress.counts().items())
    best = f"; best {name} {progress.best[1]:.4f}: {progress.best[0]}" if progress.best else ""
    seconds = progress.seconds_left(active, slots)
    left = f"; about {_duration(seconds)} left" if seconds is not None and active else ""
    return Group(table, Text(f"{counts} of {progress.expected}{best}{left}"))


def view(progress: Progress, slots: Sequence[Slot]) -> Lines:
    """The view that suits where the output goes."""
    return (Table if sys.stdout.isatty() else Lines)(progress, slots)


def listing(records: Sequence[Record], folder: Folder) -> list[str]:
    """Returns a line for each run: its number, status, name and settings."""
    lines = []
    for i, record in enumerate(records):
        status = record.status
        if status == folders.RUNNING and not folder.is_claimed(record.name):
            status = "cut off"  # and gone on with by the next sweep process
        settings = " ".join(f"{key}={naming.short(value)}" for key, value in record.arm.items() if key != "@name")
        lines.append(f"{i:4}  {status:8} {record.name}" + (f"  ({settings})" if settings else ""))
    return lines


def _duration(seconds: float) -> str:
    """Returns "42 s", "12:05" or "3:07:00"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
