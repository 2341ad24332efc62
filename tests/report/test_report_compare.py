"""Several runs side by side: the best comes first, whichever way is better."""

import json

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.report import compare, plots

VALUES = {"low": [0.9, 0.3], "high": [0.7, 0.8], "broken": [0.95, float("nan")]}


@pytest.fixture
def runs(tmp_path):
    for name, values in VALUES.items():
        (tmp_path / name).mkdir()
        rows = [{"step": s, "val/accuracy": v, "val/loss": v, "train/lr": 1.0} for s, v in enumerate(values)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / name / "config.json").write_text(json.dumps({"checkpoint": {"metric": "val/accuracy", "mode": "max"}}))
    return {name: tmp_path / name for name in VALUES}


@pytest.mark.parametrize(
    "metric, more, first, best",
    [
        ("val/accuracy", (), "high", "highest"),  # as the runs choose their best checkpoint
        ("val/loss", (), "low", "lowest"),
        ("val/accuracy", ("--mode=min",), "low", "lowest"),
    ],
)
def test_the_best_run_comes_first(runs, tmp_path, capsys, monkeypatch, metric, more, first, best):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, panels, path: drawn.extend(figure.axes) or path)
    compare.main([f"--metric={metric}", f"--output={tmp_path / 'x.png'}", *more, *map(str, runs.values())])
    header, _, *rows = capsys.readouterr().out.splitlines()[:5]
    names = [row.split()[1] for row in rows]
    assert best in header and names[0] == first and names[2] == "broken"
    labels = [line.get_label() for line in drawn[0].get_lines()]
    assert [label.split(":")[0] for label in labels if not label.startswith("_")] == names
    values = {row.split()[1]: row.split()[5] for row in rows}
    wanted = {"low": "0.9000", "high": "0.8000"} if best == "highest" else {"low": "0.3000", "high": "0.7000"}
    assert wanted.items() <= values.items()


def test_a_number_of_which_nobody_says_what_is_better_is_asked_for(runs):
    assert compare.better(runs.values(), "val/bleu") == "max"
    with pytest.raises(UserError, match='--mode: is a lower or a higher val/blue better.* Did you mean "bleu"'):
        compare.better(runs.values(), "val/blue")
