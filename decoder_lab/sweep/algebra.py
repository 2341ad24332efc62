"""What a sweep runs, as plain data: an arm is a dict {setting: value}, a sweep is a list of arms. Everything here is a pure function.

    from decoder_lab.sweep.algebra import grid, product, seeds

    def sweep():
        return product(grid({"model.kw.width": (64, 128)}, lr=(1e-4, 3e-4)), seeds(3))

A key is a setting's dotted path, as on the command line after `--config.`; ":key" is an argument of the config file, as after the colon of
`--config=file.py:key=value`. A dict with a "name" is a plug-in. Two keys say something of the run itself: "@name" what it is called, and
"@from" which run's checkpoint it goes on from (see `branches`).

A value may be a distribution (`uniform`, `loguniform`, `integers`, `choice`). `random` and `draw` put values in their place, each a
function of (seed, number of the draw, key) only, so that more draws or another key change none of the others; `--search` searches them.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from decoder_lab.core import durations
from decoder_lab.core.errors import UserError

Arm = dict[str, Any]
DIGITS = 4  # significant ones of a drawn float; more where low and high have their first ones in common
NAME, FROM = "@name", "@from"


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Numbers from low to high: evenly ("uniform"), evenly in their logarithm ("loguniform"), or whole ones, both ends included."""

    kind: str
    low: float
    high: float

    def at(self, share: float) -> float | int:
        """Returns the value below which this share, in [0, 1), of the distribution lies."""
        if self.kind == "integers":
            return int(self.low + math.floor(share * (self.high - self.low + 1)))
        if self.kind == "loguniform":
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        common = math.ceil(math.log10(max(abs(self.low), abs(self.high)))) - math.ceil(math.log10(self.high - self.low))
        return min(max(float(f"{value:.{DIGITS + max(common, 0)}g}"), self.low), self.high)

    def ends(self) -> tuple:
        """The least and the greatest value."""
        return self.low, self.high


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, each as likely as any other."""

    values: tuple

    def at(self, share: float) -> Any:
        """Returns the value below which this share, in [0, 1), of the choices lies."""
        return self.values[int(share * len(self.values))]

    def ends(self) -> tuple:
        """All values."""
        return self.values


def uniform(low: float, high: float) -> Distribution:
    """Numbers from low to high, each as likely as any other."""
    return _between("uniform", low, high)


def loguniform(low: float, high: float) -> Distribution:
    """Numbers from low to high, each order of magnitude as likely as any other."""
    if not low > 0:
        raise UserError(f"loguniform: got low = {low}, expected more than 0.")
    return _between("loguniform", low, high)


def integers(low: int, high: int) -> Distribution:
    """Whole numbers from low to high, both included."""
    if int(low) != low or int(high) != high:
        raise UserError(f"integers: got {low}, {high}, expected whole numbers.")
    return _between("integers", int(low), int(high))


def choice(*values: Any) -> Choice:
    """One of the values."""
    if not values:
        raise UserError("choice: expected at least one value.")
    return Choice(tuple(values))


def _between(kind: str, low: float, high: float) -> Distribution:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{kind}: got {low}, {high}, expected two finite numbers, the lower first.")
    return Distribution(kind, low, high)


def grid(settings: Mapping[str, Any] | None = None, /, **named: Any) -> list[Arm]:
    """Every combination of the settings' values; the last setting changes fastest."""
    axes = {key: _values(value) for key, value in {**(settings or {}), **named}.items()}
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def zip_(settings: Mapping[str, Any] | None = None, /, **named: Any) -> list[Arm]:
    """The first values together, the second ones together, ... Errors: UserError where there are not equally many."""
    axes = {key: _values(value) for key, value in {**(settings or {}), **named}.items()}
    if len({len(values) for values in axes.values()}) > 1:
        counts = ", ".join(f"{key} {len(values)}" for key, values in axes.items())
        raise UserError(f"zip: expected equally many values of each setting, got {counts}. `grid` combines each with each.")
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]


def chain(*sweeps: Iterable[Arm]) -> list[Arm]:
    """One sweep after the other."""
    return [dict(arm) for arms in sweeps for arm in arms]


def product(*sweeps: Iterable[Arm]) -> list[Arm]:
    """Every arm of the first with every arm of the second, ...; the last changes fastest. Errors: UserError for a setting of two."""
    found: list[Arm] = [{}]
    for arms in map(list, sweeps):
        for left, right in itertools.product(found[:1], arms[:1]):
            if both := sorted(left.keys() & right.keys()):
                raise UserError(f"product: {', '.join(both)} is set by two of the sweeps; leave it out of one.")
        found = [{**left, **right} for left, right in itertools.product(found, arms)]
    return found


def seeds(num: int, first: int = 0) -> list[Arm]:
    """`num` seeds, from `first` on. In a product every arm gets the same ones, so that arms are compared pair by pair."""
    if num < 1:
        raise UserError(f"seeds: got {num}, expected 1 or more.")
    return [{"seed": first + i} for i in range(num)]


def space(settings: Mapping[str, Any] | None = None, /, **named: Any) -> list[Arm]:
    """One arm whose values may be distributions: drawn by `--num`, searched by `--search`."""
    return [{**(settings or {}), **named}]


def random(num: int, settings: Mapping[str, Any] | None = None, /, seed: int = 0, **named: Any) -> list[Arm]:
    """`num` arms with drawn values. (A setting called "seed" can be given in the dict.)"""
    return draw(space(settings, **named), num, seed)


def draw(arms: Iterable[Arm], num: int, seed: int = 0) -> list[Arm]:
    """Each arm with distributions becomes `num` arms with drawn values; the others stay as they are."""
    if num < 1:
        raise UserError(f"random: got num = {num}, expected 1 or more.")
    return [_drawn(arm, i, seed) for arm in arms for i in range(num if is_open(arm) else 1)]


def is_open(arm: Arm) -> bool:
    """Whether a value of the arm is still a distribution."""
    return any(isinstance(value, Distribution | Choice) for value in arm.values())


def own_seed(arm: Arm) -> int:
    """Returns a seed that no other arm has, a function of the arm's settings only: arms that come later change none of those before."""
    digest = hashlib.sha256(json.dumps(arm, sort_keys=True, default=repr).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _drawn(arm: Arm, number: int, seed: int) -> Arm:
    return {k: v.at(_share(seed, number, k)) if isinstance(v, Distribution | Choice) else v for k, v in arm.items()}


def _share(seed: int, number: int, key: str) -> float:
    """Returns a number in [0, 1) that is a function of its arguments."""
    digest = hashlib.sha256(f"{seed}/{number}/{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def branches(run: str, steps: Sequence[int], decay: str = "20%") -> list[Arm]:
    """Cooldowns of one stable run: at each of the steps, its checkpoint goes on with a learning rate that falls to the schedule's floor.

    `run` is the "@name" of an arm of the same sweep or a run's folder. Its schedule is warmup_stable_decay, and it keeps the checkpoints of
    these steps (checkpoint.every, checkpoint.keep). `decay` is a number of steps, or a share of the branch's whole length, with its trunk.
    A branch computes what a run of its length would have computed from scratch: nothing before the decay depends on the length.
    """
    number, unit = durations.parse(decay)
    if unit not in ("steps", "%") or not number or (unit == "%" and number >= 100):
        raise UserError(f'branches: decay: got "{decay}", expected steps, such as "200 steps", or less than 100% of the whole.')
    found = []
    for step in steps:
        down = max(1, round(number if unit == "steps" else step * number / (100 - number)))
        called = f"{run.rstrip('/').rpartition('/')[2]}@{step}"
        found.append({NAME: called, FROM: f"{run}@{step}", "total_steps": step + down, "schedule.kw.decay": f"{down} steps"})
    return found


def ramp(batch_sizes: Sequence[int], steps: Sequence[int], name: str = "ramp") -> list[Arm]:
    """A batch size that grows: a chain of runs, each going on from the last one's end with its own batch size.

    `steps` are the optimiser steps of each stage. A schedule that depends on the run's length would end in every stage: take one that does
    not, or give the stages their own (`zip` of the result with others). The data position is the step, so a larger batch goes on at
    step * batch_size rows of the shuffled data, further on than the smaller one stopped: nothing comes twice, some rows come later.
    """
    if len(batch_sizes) != len(steps) or not steps:
        raise UserError(f"ramp: got {len(batch_sizes)} batch sizes and {len(steps)} numbers of steps, expected one for each.")
    found: list[Arm] = []
    for i, (size, end) in enumerate(zip(batch_sizes, itertools.accumulate(steps), strict=True)):
        before = {FROM: f"{name}-{batch_sizes[i - 1]}@{found[-1]['total_steps']}"} if found else {}
        found.append({NAME: f"{name}-{size}", "batch_size": size, "total_steps": end, **before})
    return found


def _values(value: Any) -> tuple:
    return tuple(value) if isinstance(value, list | tuple | range) else (value,)
