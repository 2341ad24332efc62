"""The measured processes: found from any folder, never stopped by what they print, and heard when they die; and what they measure."""

import sys
from collections import Counter

import pytest

from decoder_lab.benchmark import __main__ as benchmark
from decoder_lab.benchmark import ours
from decoder_lab.benchmark.protocol import Side
from decoder_lab.benchmark.shapes import SHAPES
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
    found = [dict(name="jax", device_kind=kind, first=1.0, runs=[0.1], peak_bytes=10**9)]
    row = benchmark._row("x", "training", "small", 768, found, peak, {})
    assert ("mfu" in row) == (shown == "%") and capsys.readouterr().out.strip().endswith(shown)


def test_one_stream_is_measured_by_the_memory_bandwidth(capsys):
    """1,000 tokens a second of 1.3B in bfloat16 read 2.6 TB/s, of the 3.35 that an H100 has."""
    found = [dict(name="jax", device_kind="NVIDIA H100 80GB HBM3", first=1.0, runs=[0.128], peak_bytes=10**9)]
    for batch_size, shown in ((1, "78.3%"), (8, "-")):
        row = benchmark._row("x", "generation", "1.3b", 128, found, 0.0, dict(batch_size=batch_size, beam=1, dtype="bfloat16"))
        assert ("bandwidth" in row) == (batch_size == 1) and capsys.readouterr().out.split()[-1] == shown
    assert row["per_second"] == pytest.approx(1000)


def test_every_kind_is_measured_and_only_what_the_peer_does_is_beside_it():
    found = benchmark.jobs(["small", "1.3b"], list(benchmark.WHATS), "bfloat16")
    assert Counter(kind for _, kind, *_ in found) == {"training": 2, "generation": 6, "input": 4, "checkpoint": 6}
    assert all(amount > 0 for _, kind, _, _, amount in found if kind in benchmark.BOTH)


def test_large_shapes_are_of_their_size():
    """GPT-3's table 2.1 (Brown et al. 2020) says 350M, 760M and 1.3B."""
    for name, count in (("gpt2", 124e6), ("350m", 355e6), ("760m", 760e6), ("1.3b", 1314e6)):
        assert SHAPES[name].num_parameters == pytest.approx(count, rel=0.01)


def test_states_are_saved_and_restored_and_waiting_is_a_part_of_it():
    keeping = ours.Keeping("small", "blocked")
    assert keeping.size > 3 * 4 * SHAPES["small"].num_parameters
    began = ours.time.perf_counter()
    assert 0 < keeping(2) < ours.time.perf_counter() - began and keeping._saver.steps()[-1] == 2
    keeping._what = "restore"
    assert keeping(1) > 0 and keeping._saver.steps()[-1] == 2


def test_batches_go_on_from_where_the_last_run_ended():
    feeding = ours.Feeding("small", "split")
    assert feeding(2) > 0 and feeding._step == 2 and feeding(1) > 0 and feeding._step == 3
    assert feeding.size == 12 * SHAPES["small"].max_length
