"""Which runs belong together: those that differ only in a seed, and what the others differ in."""

import dataclasses
import json
import math
import os
from typing import Any

from decoder_lab.report.run import Run

IGNORED = ("log.", "checkpoint.keep")  # change nothing that a run computes
MOST_IN_LABEL = 3
JOINTS = "_-./ ="


@dataclasses.dataclass
class Group:
    """Runs that differ only in seeds: one line with a band in a figure, one row with a spread in a table."""

    label: str
    runs: list[Run]


def is_seed(name: str) -> bool:
    """Whether a setting is one that only draws random numbers."""
    return name.rsplit(".", 1)[-1] == "seed"


def differing(runs: list[Run]) -> dict[str, list[Any]]:
    """Returns {setting: its value in each run} of the settings that are not alike in all; None where a run has no such setting."""
    names = sorted({name for run in runs for name in run.settings})
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if len({_key(value) for value in found}) > 1}


def grouped(runs: list[Run]) -> list[Group]:
    """Returns the runs in groups, in the order in which they came. Runs without a config, or of twice the same seed, stay alone."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        rest = {k: v for k, v in run.settings.items() if not is_seed(k) and not k.startswith(IGNORED)}
        key = json.dumps(rest, sort_keys=True) if run.settings else str(run.path)
        same = any(run.settings == other.settings for other in found.get(key, []))
        found.setdefault(f"{key} {run.path}" if same else key, []).append(run)
    groups = list(found.values())
    labels = _labels(groups)
    return [Group(label, members) for label, members in zip(labels, groups, strict=True)]


def counted(runs: list[Run], name: str) -> tuple[list[Run], list[Run]]:
    """Returns (the runs whose last values of a number have one meaning, the others that have it).

    Those of the first kind came to their end, or are as far as the farthest. A seed that stopped on the way would pull a mean aside.
    """
    having = [run for run in runs if name in run.numbers]
    farthest = max((run.numbers[name][0][-1] for run in having), default=0)
    whole = [run for run in having if run.numbers[name][0][-1] == farthest or run.status() == "done"]
    return whole, [run for run in having if run not in whole]


def banded(runs: list[Run], name: str) -> tuple[list[Run], list[Run]]:
    """As `counted`, for drawings: a run that ended with what is not finite is among the others too, which stand beside a band."""
    whole = [run for run in counted(runs, name)[0] if math.isfinite(run.last(name))]
    return whole, [run for run in runs if name in run.numbers and run not in whole]


def _labels(groups: list[list[Run]]) -> list[str]:
    """Returns short names that tell groups apart: of a single run its own, else what its names share, else what is set differently."""
    names = [members[0].name if len(members) == 1 else _shared([run.name for run in members]) for members in groups]
    if len(set(names)) == len(names) and all(names):
        return names
    differences = differing([members[0] for members in groups])
    chosen = [name for name in differences if not is_seed(name) and not name.startswith(IGNORED)][:MOST_IN_LABEL]
    for i, members in enumerate(groups):
        said = ", ".join(f"{short(name)}={differences[name][i]}" for name in chosen)
        names[i] = said or members[0].name
    return names if len(set(names)) == len(names) else [members[0].name for members in groups]


def _shared(names: list[str]) -> str:
    """Returns what names have in common at their beginning, without joints and parts of numbers: "lr=0.1_s10", "lr=0.1_s11" -> "lr=0.1"."""
    common = os.path.commonprefix(names)
    if any(name[len(common) : len(common) + 1].isdigit() for name in names):
        common = common.rstrip("0123456789")
    return common.rstrip(JOINTS).removesuffix("seed").removesuffix("_s").rstrip(JOINTS)


def short(name: str) -> str:
    """Returns the end of a setting's dotted name that says what it is: "model.kw.encoder.kw.width" -> "encoder.width"."""
    parts = [part for part in name.split(".") if part != "kw"]
    return ".".join(parts[-2:]) if len(parts) > 1 else parts[0]


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
