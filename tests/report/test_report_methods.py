"""The table of methods: what was trained is counted from checkpoints, seeds are averaged, the best stands first."""

import json

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.report import methods


def make_run(folder, name, values, shapes):
    run = folder / name
    (run / "checkpoints" / "4").mkdir(parents=True)
    arrays = {f"params/{i}": ["float32", shape] for i, shape in enumerate(shapes)} | {"opt_state/0": ["float32", [99]]}
    (run / "checkpoints" / "4" / "checkpoint.json").write_text(json.dumps({"arrays": arrays}))
    rows = [{"step": step, "val/loss": value, "time/tokens_per_s": 1000.0} for step, value in enumerate(values)]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return run


def test_methods_side_by_side(tmp_path):
    runs = [make_run(tmp_path, "lora_0", [5.0, 3.0], [[2, 3], [4]]), make_run(tmp_path, "lora_1", [5.0, 4.0], [[2, 3], [4]])]
    runs.append(make_run(tmp_path, "full_0", [5.0, 2.0], [[1000]]))
    lines = methods.table(runs, "val/loss")
    assert lines[2] == "| full | 1,000 | 5.0000 | 2.0000 | 1 | 1,000 |"
    assert lines[3] == "| lora | 10 | 5.0000 | 3.5000 ± 0.7071 | 2 | 1,000 |"
    assert methods.table(runs, "val/loss", highest=True)[2].startswith("| lora")


def test_what_is_no_run_of_a_method_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a folder called METHOD_SEED"):
        methods.table([make_run(tmp_path, "lora", [1.0], [[1]])], "val/loss")
    with pytest.raises(UserError, match="has no val/accuracy"):
        methods.table([make_run(tmp_path, "lora_0", [1.0], [[1]])], "val/accuracy")
