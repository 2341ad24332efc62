"""The grokking picture: both accuracies, and when each was high."""

import json

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.report import generalisation


def test_the_first_steps_of_high_accuracy_are_found(tmp_path, capsys):
    rows = [{"step": s, "known/accuracy": min(1.0, s / 100), "val/accuracy": 0.1 if s < 1000 else 0.98} for s in range(0, 2001, 50)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generalisation.main([str(tmp_path)])
    said = capsys.readouterr().out
    assert "training: accuracy 0.99 at step 100" in said and "held out: accuracy 0.99 was not reached" in said
    assert (tmp_path / "generalisation.png").stat().st_size > 1000


def test_a_run_without_the_numbers_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "val/accuracy": 0.5}\n')
    with pytest.raises(UserError, match="known/accuracy"):
        generalisation.draw(tmp_path / "metrics.jsonl", tmp_path / "x.png")
