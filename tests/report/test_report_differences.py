"""What runs differ in, as text."""

import subprocess
import sys

import pytest
from fake_runs import make_run, rows

from decoder_lab.core.errors import UserError
from decoder_lab.report import differences
from decoder_lab.report import run as runs_of


def said(*folders):
    return "\n".join(differences.lines(runs_of.read(list(folders))))


def test_settings_code_data_and_numbers(tmp_path):
    one = make_run(tmp_path / "one")
    two = make_run(tmp_path / "two", rows(offset=0.5), lr=0.25, log=dict(every="1"))
    (two / "history.jsonl").write_text((two / "history.jsonl").read_text().replace('"abc"', '"def"').replace("0.0.1", "0.0.2"))
    for run, text in ((one, "x"), (two, "y")):
        (run / "tokenizer").mkdir()
        (run / "tokenizer" / "vocab.txt").write_text(text)
    lines = {line.split()[0]: line.split()[1:] for line in said(one, two).splitlines() if line.startswith("  ") and line.split()}
    assert lines["lr"] == ["0.001", "0.25"] and lines["commit"] == ["abc", "def"] and lines["jax"] == ["0.0.1", "0.0.2"]
    assert lines["tokenizer"][0] != lines["tokenizer"][1] and "Python" not in lines and "model.name" not in lines
    assert lines["val/loss"][2:] == ["+0.5", "worse"] and lines["train/lr"] == ["0.0003333", "0.0003333", "+0"]
    assert "log.every" not in lines and "1 settings of logs" in said(one, two)


def test_equal_runs_differ_in_nothing(tmp_path):
    text = said(make_run(tmp_path / "a"), make_run(tmp_path / "b"))
    assert text.count("no difference") == 3 and "better" not in text and "worse" not in text


def test_two_runs_are_needed_and_three_are_fine(tmp_path):
    folders = [make_run(tmp_path / name, lr=lr) for name, lr in (("a", 0.1), ("b", 0.2), ("c", 0.1))]
    with pytest.raises(UserError, match="got 1 run"):
        said(folders[0])
    assert ["lr", "0.1", "0.2", "0.1"] in [line.split() for line in said(*folders).splitlines()]


def test_the_command(tmp_path):
    folders = [str(make_run(tmp_path / name)) for name in "ab"]
    done = subprocess.run([sys.executable, "-m", "decoder_lab.compare", *folders], capture_output=True, text=True)
    assert done.returncode == 0 and "numbers, the last of each:" in done.stdout, done.stderr
