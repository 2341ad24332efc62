"""The table of methods: what was trained is counted from checkpoints, seeds are averaged, the best stands first."""

import csv
import json

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.report import methods


def make_run(folder, name, values, shapes, used=()):
    run = folder / name
    (run / "checkpoints" / "4").mkdir(parents=True)
    arrays = {f"params/{i}": ["float32", shape] for i, shape in enumerate(shapes)} | {"opt_state/0": ["float32", [99]]}
    (run / "checkpoints" / "4" / "checkpoint.json").write_text(json.dumps({"arrays": arrays, "meta": {"num_parameters": 2000}}))
    rows = [{"step": step, "val/loss": value, "time/tokens_per_s": 1000.0} for step, value in enumerate(values)]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    if used:
        (run / methods.USAGE).write_text(
            json.dumps([dict(zip(("exit_code", "seconds", "peak_bytes"), each, strict=True)) for each in used])
        )
    return run


def test_methods_side_by_side(tmp_path):
    """Memory is the most of any process, time the mean of the runs'; a process that nobody saw end makes it a bound."""
    runs = [make_run(tmp_path, "lora_0", [5.0, 3.0], [[2, 3], [4]], [(75, 10.0, 2_000_000_000), (0, 20.0, 1_000_000_000)])]
    runs.append(make_run(tmp_path, "lora_1", [5.0, 4.0], [[2, 3], [4]], [(None, 0, 0), (0, 50.0, 1_000_000_000)]))
    runs.append(make_run(tmp_path, "full_0", [5.0, 2.0], [[1000]], [(0, 600.0, 3_000_000_000)]))
    found = methods.rows(runs, "val/loss", "min")
    lines = methods.table(found, "val/loss")
    assert lines[2] == "| full | 1,000 | 50.00% | 3.00 GB | 10.0 min | 5.0000 | 2.0000 | 1 | 1,000 |"
    assert lines[3] == "| lora | 10 | 0.50% | 2.00 GB | > 40 s | 5.0000 | 3.5000 ± 0.7071 | 2 | 1,000 |"
    assert methods.rows(runs, "val/loss", "max")[0].method == "lora"
    methods.write(found, "val/loss", tmp_path)
    assert (tmp_path / "methods.md").read_text() == "\n".join(lines) + "\n"
    assert (tmp_path / "methods.png").read_bytes()[:4] == b"\x89PNG"
    full, lora = csv.DictReader((tmp_path / "methods.csv").open())
    assert (full["method"], float(full["mean"]), full["spread"]) == ("full", 2.0, "")
    assert (lora["trained"], lora["seeds"], lora["values"], lora["all_seconds_known"]) == ("10", "2", "3.0 4.0", "False")


def test_runs_of_unknown_cost(tmp_path):
    (row,) = methods.rows([make_run(tmp_path, "lora_0", [5.0, 3.0], [[2, 3]])], "val/loss", "min")
    assert methods.table([row], "val/loss")[2] == "| lora | 6 | 0.30% | - | - | 5.0000 | 3.0000 | 1 | 1,000 |"


def test_what_is_no_run_of_a_method_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a folder called METHOD_SEED"):
        methods.rows([make_run(tmp_path, "lora", [1.0], [[1]])], "val/loss", "min")
    with pytest.raises(UserError, match="has no val/accuracy"):
        methods.rows([make_run(tmp_path, "lora_0", [1.0], [[1]])], "val/accuracy", "max")
