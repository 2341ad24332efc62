"""Durations: "200", "200 steps", "5%", "2 epochs", "1e5 examples" or "3e6 tokens", turned into optimiser steps in one place."""

import dataclasses
import re
from collections.abc import Callable

from decoder_lab.core.errors import UserError, nearest

UNITS = ("steps", "epochs", "examples", "tokens", "%")
_FORM = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%]*)\s*$")


def parse(text: str | int) -> tuple[float, str]:
    """Returns (number, unit) of a duration. Errors: UserError for another form or an unknown unit."""
    match = _FORM.match(str(text))
    if not match:
        raise UserError(f'duration "{text}": expected a number and a unit, such as "200 steps", "5%" or "2 epochs".')
    unit = match.group(2) or "steps"
    unit = unit if unit in UNITS else unit + "s"
    if unit not in UNITS:
        raise UserError(f'duration "{text}": unit "{match.group(2)}" is not known.{nearest(unit, UNITS)} Known: {", ".join(UNITS)}.')
    number = float(match.group(1))
    if number == float("inf"):
        raise UserError(f'duration "{text}": expected a finite number.')
    return number, unit


@dataclasses.dataclass(frozen=True)
class Clockwork:
    """What a duration is measured against: the run's length, its batch and its data."""

    total_steps: int
    batch_size: int  # examples an optimiser step
    sequence_length: int
    examples_per_epoch: Callable[[], int]  # asked only where epochs are used: it needs the training data

    def steps(self, duration: str | int) -> int:
        """Returns a duration in optimiser steps, rounded to the nearest; anything above zero lasts at least one step."""
        number, unit = parse(duration)
        scale = {
            "steps": 1.0,
            "epochs": self.examples_per_epoch() / self.batch_size if unit == "epochs" else 0.0,
            "examples": 1.0 / self.batch_size,
            "tokens": 1.0 / (self.batch_size * self.sequence_length),
            "%": self.total_steps / 100.0,
        }[unit]
        return max(1, round(number * scale)) if number > 0 else 0


def due(step: int, every: int, total_steps: int) -> bool:
    """Whether something done every `every` steps is due at the top of `step`: periodically, and at the last step; never for 0."""
    return every > 0 and (step % every == 0 or step == total_steps)
