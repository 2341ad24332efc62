"""The result of a sweep: a table of its arms with mean and spread over seeds, and one of its runs; CSV, Markdown and HTML."""

import csv
import dataclasses
import html
import io
import json
import math
import os
import pathlib
import re
import statistics
from collections.abc import Sequence
from typing import Any

from decoder_lab.core.errors import nearest
from decoder_lab.core.writer import jsonl
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep import naming
from decoder_lab.sweep.algebra import FROM, NAME
from decoder_lab.sweep.folder import Folder, Record
from decoder_lab.sweep.following import Following, Objective

SEED = "seed"
UNREADABLE = "unreadable"  # instead of the status of a run whose numbers cannot be read
SEED_IN_NAME = re.compile(r"_seed=\d+|(?<=/)seed=\d+")
NAMES = ("table.csv", "table.md", "table.html", "runs.csv")


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm.

    Attributes:
      settings: {label: value} of what differs between the arms.
      records, values: its runs, and of each the value of every objective, None where there is none.
    """

    settings: dict[str, Any]
    records: tuple[Record, ...]
    values: tuple[tuple[float | None, ...], ...]

    def mean(self, i: int) -> float | None:
        """Mean of objective i over the runs that are done; not a number where one of them is not."""
        found = self._done(i)
        return statistics.fmean(found) if found else None

    def spread(self, i: int) -> float | None:
        """Sample standard deviation of objective i over the runs that are done; None of fewer than two."""
        found = self._done(i)
        if len(found) < 2:
            return None
        return math.nan if any(math.isnan(x) for x in found) else statistics.stdev(found)

    def _done(self, i: int) -> list[float]:
        return [v[i] for v, r in zip(self.values, self.records, strict=True) if v[i] is not None and r.status == folders.DONE]

    def runs(self) -> str:
        """How many runs are done, and of how many where others are not."""
        done = sum(r.status == folders.DONE for r in self.records)
        others = sorted({r.status for r in self.records} - {folders.DONE})
        return str(done) if not others else f"{done} of {len(self.records)} ({', '.join(others)})"

    def seconds(self) -> float:
        """Mean time of a run."""
        return statistics.fmean(r.seconds for r in self.records)


def rows(folder: Folder, objectives: Sequence[Objective], names: Sequence[str] | None = None) -> list[Row]:
    """Returns the arms of a folder's runs (of those named), the best first by the first objective; arms without a result last."""
    records = [r for name, r in folder.records().items() if names is None or name in names]
    keys = [k for k in naming.differing([r.arm for r in records]) if k != SEED]
    groups: dict[str, list[Record]] = {}
    for record in records:
        arm = {**record.arm, FROM: trunk(record)}
        arm.pop(SEED, None)
        groups.setdefault(json.dumps(arm, sort_keys=True, default=repr), []).append(record)
    trunks: dict[str | None, set[str]] = {}
    for record in (record for record in records if FROM in record.arm):
        trunks.setdefault(record.arm.get(NAME), set()).add(trunk(record))
    if None not in trunks and all(len(several) == 1 for several in trunks.values()):  # its name says where it comes from
        keys = sorted((k for k in keys if k != FROM), key=lambda k: k != NAME)
    labels = naming.labels(keys)
    found = []
    for group in groups.values():
        group = sorted(group, key=lambda r: r.arm.get(SEED, 0))
        settings = {labels[k]: value for k in keys if (value := _setting(folder, group[0], k)) is not None}
        read = [_read(folder, record, objectives) for record in group]
        found.append(Row(settings, tuple(record for record, _ in read), tuple(values for _, values in read)))
    return sorted(found, key=lambda row: (*objectives[0].order(row.mean(0)), row.records[0].number))


def trunk(record: Record) -> str:
    """Returns which run, whatever its seed, and which step a run goes on from, as declared; "" where it begins by itself."""
    return SEED_IN_NAME.sub("", str(record.arm.get(FROM, "")))


def trouble(folder: Folder, found: Sequence[Row], objectives: Sequence[Objective]) -> list[str]:
    """Returns a line for each run whose numbers cannot be read, and for each objective that no run has though some are done."""
    said = [f"{r.name}: {r.reason[0]}" for row in found for r in row.records if r.status == UNREADABLE]
    done = [r for row in found for r in row.records if r.status == folders.DONE]
    for i, objective in enumerate(objectives):
        if done and all(values[i] is None for row in found for values in row.values):
            path = folder.workdir(done[0].name) / jsonl.METRICS
            known = sorted({name for line in jsonl.read(path) for name in line} - {"step"}) if path.is_file() else []
            said.append(
                f"no run has a {objective.name}.{nearest(objective.name, known)} {done[0].name} has: {', '.join(known) or 'nothing'}."
            )
    return said


def _read(folder: Folder, record: Record, objectives: Sequence[Objective]) -> tuple[Record, tuple[float | None, ...]]:
    """Returns (record, each objective as far as the run got); of a damaged file no number is believed."""
    following = Following(folder.workdir(record.name) / "metrics.jsonl", [o.name for o in objectives]).read()
    if following.unreadable:
        record = dataclasses.replace(record, status=UNREADABLE, reason=(f"{following.unreadable} cannot be read",))
        return record, (None,) * len(objectives)
    return record, tuple(o.of(following.series(o.name)) for o in objectives)


def _setting(folder: Folder, record: Record, key: str) -> Any:
    """Returns an arm's value of a setting; where the arm does not say, what its config has. None where there is none."""
    saved = folder.workdir(record.name) / "config.json"
    if key == FROM:
        return trunk(record) or None
    if key in record.arm or key[0] in ":@" or not saved.is_file():
        return record.arm.get(key)
    node = folders.read(saved)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def columns(found: Sequence[Row]) -> list[str]:
    """Returns the labels of the settings that differ, in the order in which they come."""
    return list(dict.fromkeys(label for row in found for label in row.settings))


def markdown(found: Sequence[Row], objectives: Sequence[Objective]) -> str:
    """Returns the arms as a Markdown table."""
    titles = [*columns(found), *(title(o) for o in objectives), "runs", "seconds"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in found:
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in _cells(row, found, objectives)) + " |")
    return "\n".join(lines) + "\n"


def title(objective: Objective) -> str:
    """Returns how a column is called: "val/loss, best"."""
    return f"{objective.name}, {objective.value}"


def _cells(row: Row, found: Sequence[Row], objectives: Sequence[Objective]) -> list[str]:
    exact = {c: naming.digits(other.settings.get(c) for other in found) for c in columns(found)}
    settings = [naming.short(row.settings[c], exact[c]) if c in row.settings else "" for c in columns(found)]
    numbers = []
    for i in range(len(objectives)):
        mean, spread = row.mean(i), row.spread(i)
        numbers.append("-" if mean is None else f"{mean:.4f}" + (f" ± {spread:.4f}" if spread is not None else ""))
    return [*settings, *numbers, row.runs(), f"{row.seconds():.0f}"]


def comma_separated(found: Sequence[Row], objectives: Sequence[Objective]) -> str:
    """Returns the arms as CSV: settings, and of each objective mean, standard deviation and number of runs; full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = [f"{title(o)}, {part}" for o in objectives for part in ("mean", "standard deviation")]
    writer.writerow([*columns(found), *numbers, "runs done", "runs", "seconds"])
    for row in found:
        settings = [row.settings.get(c, "") for c in columns(found)]
        found_numbers = [x for i in range(len(objectives)) for x in (row.mean(i), row.spread(i))]
        done = sum(r.status == folders.DONE for r in row.records)
        writer.writerow([*settings, *("" if x is None else x for x in found_numbers), done, len(row.records), f"{row.seconds():.1f}"])
    return out.getvalue()


def each_run(found: Sequence[Row], objectives: Sequence[Objective]) -> str:
    """Returns the runs as CSV, one a line, in their order."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", *columns(found), SEED, *map(title, objectives), "status", "exit code", "attempts", "seconds"])
    pairs = [(record, value, row) for row in found for record, value in zip(row.records, row.values, strict=True)]
    for record, value, row in sorted(pairs, key=lambda pair: pair[0].number):
        settings = [row.settings.get(c, "") for c in columns(found)]
        numbers = ["" if x is None else x for x in value]
        end = [record.status, "" if record.exit_code is None else record.exit_code, record.attempts, f"{record.seconds:.1f}"]
        writer.writerow([record.name, *settings, record.arm.get(SEED, ""), *numbers, *end])
    return out.getvalue()


STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #009e7322; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.number, td.number { text-align: right; } tbody tr:first-child { background: var(--good); }
p { opacity: .75; } @media print { body { margin: 0; max-width: none; } }
"""


def page(found: Sequence[Row], objectives: Sequence[Objective], name: str) -> str:
    """Returns the arms as one HTML file that needs nothing else."""
    settings = columns(found)
    titles = [*settings, *(title(o) for o in objectives), "runs", "seconds"]
    kinds = ["" if i < len(settings) else ' class="number"' for i in range(len(titles))]
    head = "".join(f"<th{kind}>{html.escape(text)}</th>" for text, kind in zip(titles, kinds, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{html.escape(c)}</td>" for c, kind in zip(_cells(row, found, objectives), kinds, strict=True))
        + "</tr>"
        for row in found
    )
    spread = "Mean ± standard deviation over seeds. " if any(len(row.records) > 1 for row in found) else ""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(name)}</title><style>{STYLE}</style>\n<h1>{html.escape(name)}</h1>\n"
        f"<p>{sum(len(row.records) for row in found)} runs, {len(found)} settings. {spread}Best first.</p>\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div></html>\n'
    )


def write(folder: Folder, found: Sequence[Row], objectives: Sequence[Objective]) -> list[pathlib.Path]:
    """Writes all tables into the folder; returns their paths."""
    name = folder.root.resolve().name
    texts = (
        comma_separated(found, objectives),
        markdown(found, objectives),
        page(found, objectives, name),
        each_run(found, objectives),
    )
    paths = [folder.root / file for file in NAMES]
    for path, text in zip(paths, texts, strict=True):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")  # other processes of the sweep write it too
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return paths
