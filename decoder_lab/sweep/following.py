"""A run's metrics.jsonl as it grows: only what is new is read. What the file said before a run was resumed is read again."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Sequence

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A number of metrics.jsonl, which way is better ("min" or "max"), and whether a run is judged by its "best" or its "last" value."""

    name: str
    mode: str
    value: str = "best"

    def better(self, a: float, b: float) -> bool:
        """Whether a is better than b; what is not a number is never."""
        return not math.isnan(a) and (math.isnan(b) or (a < b if self.mode == "min" else a > b))

    def of(self, values: Sequence[float]) -> float | None:
        """Returns the value that a run is judged by; None where there is none."""
        finite = [v for v in values if not math.isnan(v)]
        if not values or (self.value == "best" and not finite):
            return None if not values else math.nan
        return values[-1] if self.value == "last" else min(finite) if self.mode == "min" else max(finite)

    def order(self, value: float | None) -> tuple:
        """Sorts the better first, then what is not a number, then what is not there."""
        if value is None or math.isnan(value):
            return (1 if value is not None else 2, 0.0)
        return 0, value if self.mode == "min" else -value


class Following:
    """The numbers of one run.

    Attributes:
      step: of the last line.
      values: {name: {step: value}} of the names asked for.
      unreadable: "FILE, line 3" of the first line that is none, such as after a power failure; "" where there is none.
    """

    def __init__(self, path: pathlib.Path, names: Iterable[str]):
        self.path, self.names = path, tuple(names)
        self._forget()

    def _forget(self) -> None:
        self._offset, self._inode, self._lines, self.step, self.unreadable = 0, None, 0, 0, ""
        self.values: dict[str, dict[int, float]] = {name: {} for name in self.names}

    def read(self) -> "Following":
        """Takes in what is new; a last line that is only half written waits for the next call."""
        try:
            with open(self.path, "rb") as f:
                status = os.fstat(f.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:  # a resumed run's file is another one
                    self._forget()
                    self._inode = status.st_ino
                f.seek(self._offset)
                new = f.read()
        except FileNotFoundError:
            return self
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.split(b"\n")[:-1]:
            self._lines += 1
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError):
                self.unreadable = self.unreadable or f"{self.path}, line {self._lines}"
        return self

    def _take(self, row: dict) -> None:
        step = int(row["step"])
        for name in self.names:
            if name in row:
                value = row[name]
                self.values[name][step] = NOT_FINITE.get(value, math.nan) if isinstance(value, str) else float(value)
        self.step = max(self.step, step)

    def series(self, name: str) -> list[float]:
        """Returns one number's values by step."""
        return [self.values[name][step] for step in sorted(self.values[name])]
