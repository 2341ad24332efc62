"""What a compiled program sends between devices, read from its text: kind, shape and how often, loops counted."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}

_OPERATION = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIMIT = re.compile(r" = [su]32\[\]\S* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation: what a device holds after it (of a reduce-scatter: before it), and how often it runs (0: unknown, in a loop)."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    num_bytes: int
    times: int
    of: str  # the operation of the model that it serves, as jax names it


def of_program(text: str) -> list[Collective]:
    """Returns the collectives of `compiled.as_text()`, in no order."""
    bodies = _computations(text)
    entry = next(name for name, (is_entry, _) in bodies.items() if is_entry)
    times: collections.Counter[str] = collections.Counter()
    _count(entry, 1, bodies, times)
    seen: set[str] = set()  # of an operation in several parts, which overlap with others on TPUs, every part has the same channel
    return [found for name, (_, lines) in bodies.items() if times[name] for found in _of_lines(lines, times[name], seen)]


def summary(found: list[Collective]) -> dict[str, tuple[int, int]]:
    """Returns {kind: (how often, bytes in all)}."""
    totals: dict[str, tuple[int, int]] = {}
    for one in found:
        count, size = totals.get(one.kind, (0, 0))
        totals[one.kind] = count + one.times, size + one.times * one.num_bytes
    return totals


def _computations(text: str) -> dict[str, tuple[bool, list[str]]]:
    found: dict[str, tuple[bool, list[str]]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = []
            found[match[1]] = line.startswith("ENTRY"), lines
        else:
            lines.append(line)
    return found


def _count(name: str, factor: int, bodies: dict, times: collections.Counter) -> None:
    """Adds how often a computation and those that it calls run; a loop whose number of rounds is not known counts as one."""
    times[name] += factor
    for line in bodies[name][1]:
        called = [part.strip(" %") for match in _CALLED.finditer(line) for part in (match[1] or match[2]).split(",")]
        trips = _trips(line, bodies) if " while(" in line else 1
        for inner in called:
            if inner in bodies:
                _count(inner, factor * trips, bodies, times)


def _trips(line: str, bodies: dict) -> int:
    """Returns how often a loop runs: as the compiler notes, else the one limit that its counter, from 0 on, is compared with; else 1."""
    if match := _TRIPS.search(line):
        return int(match[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    lines = bodies.get(condition[1], (False, []))[1] if condition else []
    limits = [int(match[1]) for each in lines if (match := _LIMIT.search(each))]
    counts = any("direction=LT" in each for each in lines if each.lstrip().startswith("ROOT"))
    return limits[0] if counts and len(limits) == 1 else 1


def _group_size(line: str) -> int:
    """Returns how many devices take part in one group of an operation: {{0,1},{2,3}}, [2,2]<=[4], or mesh['a'=4,'b'=2] {'b'}."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(part.strip().split("=") for part in match[1].split(","))
        return math.prod(int(sizes[name.strip()]) for name in match[2].split(",") if name.strip())
    return 1


def _of_lines(lines: list[str], times: int, seen: set[str]) -> Iterator[Collective]:
    for line in lines:
        if not (match := _OPERATION.search(line)):
            continue
        if channel := re.search(r"channel_id=(\d+)", line):
            if channel[1] in seen:
                continue
            seen.add(channel[1])
        arrays = _ARRAY.findall(match[1])
        if match[3] and match[2] != "all-reduce":  # asynchronous: (operands, results, and of a permutation two numbers)
            arrays = [array for array in arrays if array[1] or match[2] != "collective-permute"]
            arrays = arrays[len(arrays) // 2 :]
        shapes = tuple(tuple(int(n) for n in sizes.split(",") if n) for _, sizes in arrays)
        num_bytes = sum(BYTES.get(kind, 4) * math.prod(shape) for (kind, _), shape in zip(arrays, shapes, strict=True))
        if match[2] == "reduce-scatter":
            num_bytes *= _group_size(line)
        name = re.search(r'op_name="([^"]*)"', line)
        yield Collective(match[2], shapes, num_bytes, times, name[1] if name else "")
