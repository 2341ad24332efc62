"""The measured processes: found from any folder, never stopped by what they print, and heard when they die."""

import sys

import pytest

from decoder_lab.benchmark import __main__ as benchmark
from decoder_lab.benchmark.protocol import Side
from decoder_lab.core.errors import UserError

SIDE = """
import os, sys
from decoder_lab.benchmark import protocol

def noisy(size):
    sys.stderr.write("x" * size)
    print("no answer")
    if size == 1:
        raise ValueError("of its own making")
    return lambda count: float(count)

protocol.serve({"noisy": noisy}, lambda: {"name": os.environ["PYTHONPATH"]})
"""


@pytest.fixture
def side(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "noisy_side.py").write_text(SIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    side = Side(sys.executable, "noisy_side")
    yield side
    side.close()


def test_a_side_may_print_as_much_as_it_likes_and_keeps_the_users_path(side, tmp_path):
    assert str(tmp_path) in side.ask(prepare="noisy", kw=dict(size=300_000))["name"]
    answer = side.ask(count=3)
    assert answer["seconds"] == 3.0 and 1e6 < answer["peak_bytes"] < 1e9


def test_a_side_that_dies_says_why(side):
    with pytest.raises(RuntimeError, match="of its own making"):
        side.ask(prepare="noisy", kw=dict(size=1))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match='"medum" is not known. Did you mean "medium"'):
        benchmark.main(["--sizes=small,medum"])
    with pytest.raises(UserError, match='--what: "trainin" is not known. Did you mean "training"'):
        benchmark.main(["--what=trainin"])


@pytest.mark.parametrize("kind, peak, shown", [("cpu", 0.0, "-"), ("cpu", 1e12, "%"), ("NVIDIA H100 80GB HBM3", 0.0, "%")])
def test_mfu_is_by_the_data_sheet_or_the_flag(kind, peak, shown, capsys):
    row = benchmark._row("x", "training", "small", 768, [dict(name="jax", device_kind=kind, first=1.0, runs=[0.1])], peak)
    assert ("mfu" in row) == (shown == "%") and capsys.readouterr().out.strip().endswith(shown)
