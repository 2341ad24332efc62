"""What runs differ in, as text: settings, code, data, and what came of it."""

import hashlib
import pathlib
from typing import Any

from decoder_lab.core.errors import UserError
from decoder_lab.report.about import value_text
from decoder_lab.report.groups import IGNORED, differing
from decoder_lab.report.markup import number
from decoder_lab.report.numbers import direction
from decoder_lab.report.run import Run

FOLDERS = ("tokenizer", "source_tokenizer")
EQUAL = "  no difference"


def lines(runs: list[Run]) -> list[str]:
    """Returns the lines of the comparison. Errors: UserError for fewer than two runs."""
    if len(runs) < 2:
        raise UserError(f"compare: got {len(runs)} run, expected two or more.")
    head = [f"{run.name}: {run.status()}, {number(run.last_step)} steps, {run.path}" for run in runs]
    notes = [f"{run.name}: not readable: {line}" for run in runs for line in run.trouble]
    found = differing(runs)
    settings = {k: v for k, v in found.items() if not k.startswith(IGNORED)}
    parts = {
        "settings": _table(runs, {name: [value_text(x) for x in values] for name, values in settings.items()}),
        "code": _table(runs, _differing({name: [_code(run).get(name, "–") for run in runs] for name in _names(runs, _code)})),
        "data": _table(runs, _differing({name: [_data(run).get(name, "–") for run in runs] for name in _names(runs, _data)})),
        "numbers, the last of each": _numbers(runs),
    }
    made = [*head, *notes]
    for title, body in parts.items():
        made += ["", f"{title}:", *(body or [EQUAL])]
    if logs := len(found) - len(settings):
        made += ["", f"({logs} settings of logs and kept checkpoints differ too; they change nothing that is computed)"]
    return made


def _names(runs: list[Run], of: Any) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in of(run)))


def _differing(table: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def _code(run: Run) -> dict[str, str]:
    """Returns what code the run's last process was, and on what."""
    if not run.history:
        return {}
    last = run.history[-1]
    about = {"commit": str(last.get("git")), "Python": str(last.get("python")), "platform": str(last.get("platform"))}
    return about | {name: str(version) for name, version in (last.get("versions") or {}).items()}


def _data(run: Run) -> dict[str, str]:
    """Returns what tells the data of runs apart: the key of the prepared rows, and the tokenizers' files."""
    found = {} if run.meta.get("data") is None else {"rows": str(run.meta["data"])}
    for name in FOLDERS:
        if (run.path / name).is_dir():
            found[name] = _digest(run.path / name)
    return found


def _digest(folder: pathlib.Path) -> str:
    """Returns a short digest of the files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _numbers(runs: list[Run]) -> list[str]:
    """Returns a line for each number that at least one run has; of two runs with how much the second is better."""
    names = sorted({name for run in runs for name in run.numbers})
    rows = {}
    for name in names:
        values = [run.last(name) for run in runs]
        cells = [number(value) for value in values]
        if len(runs) == 2 and None not in values:
            change = values[1] - values[0]
            better = direction(name, runs)
            word = "" if better is None or not change else ("better" if (change < 0) == (better == "min") else "worse")
            cells += [f"{change:+.4g}", word]
        rows[name] = cells
    return _table(runs, rows, ("change", ""))


def _table(runs: list[Run], rows: dict[str, list[str]], more: tuple[str, ...] = ()) -> list[str]:
    """Returns aligned columns, the runs' names above them; [] without rows."""
    if not rows:
        return []
    table = [["", *(run.name for run in runs), *more], *([name, *values] for name, values in rows.items())]
    count = max(map(len, table))
    table = [row + [""] * (count - len(row)) for row in table]
    widths = [max(len(row[i]) for row in table) for i in range(count)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
