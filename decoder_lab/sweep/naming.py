"""Names of runs: short, stable and readable, made of what differs between the arms; they are names of folders too."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from decoder_lab.sweep.algebra import FROM, NAME, Arm

LONGEST = 100
DIGEST = 6
DIGITS, EXACT = 4, 17  # significant ones that a float is shown with, and that tell any two apart


def names(arms: Sequence[Arm], taken: Iterable[str] = ()) -> list[str]:
    """Returns one name for each arm, all different and none of the `taken` ones (upper and lower case counts as the same)."""
    keys = [key for key in differing(arms) if key != NAME]
    short = labels(keys)
    exact = {key: digits(arm.get(key) for arm in arms) for key in keys}
    plain = [_name(arm, [] if NAME in arm else keys, short, exact) for arm in arms]
    counts = Counter(plain)  # several arms of one "@name", such as its seeds
    found: list[str] = []
    used = {name.lower() for name in taken}
    for arm, name in zip(arms, plain, strict=True):
        if NAME in arm and counts[name] > 1:
            name = _name(arm, differing([a for a in arms if a.get(NAME) == arm[NAME]]), short, exact)
        if len(name) > LONGEST or name.lower() in used:
            name = f"{name[: LONGEST - DIGEST - 1]}-{_digest(arm)}"
        used.add(name.lower())
        found.append(name)
    return found


def differing(arms: Sequence[Arm]) -> list[str]:
    """Returns the keys that not all arms have with the same value, in the order in which they come; "@from" first, the seed last."""
    keys = dict.fromkeys(key for arm in arms for key in arm)
    found = [key for key in keys if len({json.dumps(arm.get(key, "(none)"), default=repr) for arm in arms}) > 1]
    return sorted(found, key=lambda key: {FROM: 0, "seed": 2}.get(key, 1))


def labels(keys: Sequence[str]) -> dict[str, str]:
    """Returns {key: the shortest end of its path that no other key has}: "model.kw.width" is "width", "schedule.name" is "schedule"."""
    parts = {key: [p for p in key.lstrip(":@").split(".") if p not in ("kw", "name")] or [key.lstrip(":@")] for key in keys}
    found = {}
    for key, own in parts.items():
        others = [other for k, other in parts.items() if k != key]
        length = next((n for n in range(1, len(own)) if not any(other[-n:] == own[-n:] for other in others)), len(own))
        found[key] = ".".join(own[-length:])
    again = Counter(found.values())
    return {key: label if again[label] == 1 else key for key, label in found.items()}


def digits(values: Iterable[Any]) -> int:
    """Returns how many significant digits tell the floats among the values apart; 4 at least."""
    floats = {value for value in values if isinstance(value, float)}
    return next((n for n in range(DIGITS, EXACT) if len({f"{x:.{n}g}" for x in floats}) == len(floats)), EXACT)


def short(value: Any, digits: int = DIGITS) -> str:
    """Returns a value as it stands in names and tables: 0.0001, 1e-5, 64, cosine."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return re.sub(r"e([+-])0+(?=\d)", r"e\1", f"{value:.{digits}g}").replace("e+", "e")
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else json.dumps(value, default=repr)
    if isinstance(value, list | tuple):
        return "-".join(map(short, value))
    return str(value)


def _name(arm: Arm, keys: Iterable[str], short_keys: dict[str, str], exact: dict[str, int]) -> str:
    parts = [] if NAME not in arm else [safe(str(arm[NAME]))]
    for key in keys:
        if key in arm and key != NAME:
            value = arm[key].rpartition("/")[2] if key == FROM else arm[key]
            parts.append(f"{safe(short_keys.get(key, key))}={safe(short(value, exact.get(key, DIGITS)))}")
    return "_".join(parts) or "run"


def safe(text: str) -> str:
    """Returns a text as part of a name: letters, digits and what no shell, path or glob gives a meaning to; never a hidden file."""
    return re.sub(r"[^\w.+@%=-]+", "-", text, flags=re.ASCII).lstrip(".") or "-"


def _digest(arm: Arm) -> str:
    return hashlib.sha256(json.dumps(arm, sort_keys=True, default=repr).encode()).hexdigest()[:DIGEST]
