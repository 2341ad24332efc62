"""The terminal: a progress bar with what matters now, and a line for each evaluation.

Where there is no terminal, such as in a log file, the bar becomes a line every `every_seconds`, whatever `log.every` says: that one rules
what the other writers get.
"""

import dataclasses
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping

from decoder_lab.core import units

BAR_WIDTH = 16
REDRAW_SECONDS = 0.1
CLEAR = "\r\x1b[K"


@dataclasses.dataclass
class Writer:
    """Prints to standard output.

    Attributes:
      hide: prefixes of numbers that get no line of their own, as the progress line shows the latest.
      every_seconds: between two progress lines where there is no terminal; the first and the last always stand.
      max_characters: of each text.
    """

    directory: pathlib.Path
    resume_step: int | None
    hide: tuple[str, ...] = ("train/", "time/")
    every_seconds: float = 10.0
    max_characters: int = 600

    def __post_init__(self):
        self._shown_at = None
        self._bar = ""  # what stands in the last line of the terminal

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        shown = {name: value for name, value in values.items() if not name.startswith(tuple(self.hide))}
        if shown:
            self._print(f"step {step}  " + "  ".join(_pair(name, value) for name, value in shown.items()))

    def text(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            cut = text if len(text) <= self.max_characters else text[: self.max_characters] + " ..."
            self._print(f"step {step}  {name}:\n" + "\n".join(f"  | {_printable(line)}" for line in cut.split("\n")))

    def details(self, step: int, found: Mapping[str, Mapping]) -> None:
        """Nothing: a terminal is no place for matrices."""

    def progress(self, step: int, total: int, info: Mapping[str, float]) -> None:
        now, terminal = time.monotonic(), sys.stdout.isatty()
        wait = REDRAW_SECONDS if terminal else self.every_seconds
        if self._shown_at is not None and now - self._shown_at < wait and step < total:
            return
        self._shown_at = now
        numbers = "  ".join(_pair(name, value) for name, value in info.items() if value is not None)
        if not terminal:
            self._print(f"step {step}/{total}  {numbers}")
            return
        done = BAR_WIDTH * step // max(total, 1)
        line = f"{step}/{total} [{'#' * done}{'.' * (BAR_WIDTH - done)}] {numbers}"
        self._bar = line[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be taken back
        self._write(CLEAR + self._bar)

    def close(self) -> None:
        """Leaves the last state of the bar standing."""
        if self._bar:
            self._bar = ""
            self._write("\n")

    def _print(self, text: str) -> None:
        """Prints lines above the bar."""
        self._write(f"{CLEAR}{text}\n{self._bar}" if self._bar else text + "\n")

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def _pair(name: str, value: float) -> str:
    forms = {
        "tokens_per_s": lambda v: f"{units.short(v)} tokens/s",
        "mfu": lambda v: f"MFU {100 * v:.3g}%",
        "flop_per_s": lambda v: f"{units.short(v)}FLOP/s",
        "seconds_left": lambda v: f"{_duration(v)} left",
    }
    return forms[name](value) if name in forms else f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def _duration(seconds: float) -> str:
    """Returns "0:42", "12:05" or "3:07:00"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _printable(line: str) -> str:
    """A model may sample the codes that move the cursor or change colours: they are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)
