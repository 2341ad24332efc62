"""The runs of a table of methods: planned from any config, never repeated, stopped and gone on with, and measured each by itself."""

import json
import os
import signal
import threading
import time

import pytest

from decoder_lab.benchmark import methods
from decoder_lab.core import lock
from decoder_lab.core.errors import UserError
from decoder_lab.report import methods as report

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=""):
    config = ConfigDict()
    config.checkpoint = dict(metric="val/loss", mode="min")
    return config
"""
OWN = """
from ml_collections import ConfigDict
from decoder_lab.core.config import parse_argument

METHODS = {"low": None, "high": None}

def get_config(arg=""):
    arg = parse_argument(arg, method=tuple(METHODS), size=1)
    config = ConfigDict()
    config.total_steps = arg.size
    return config
"""
STAND_IN = """
import ctypes, json, pathlib, sys, time
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
with open(folder / "starts", "a") as file:
    file.write("x" if number.value == 15 else "without a leash")
time.sleep(seconds)
block = b"x" * (300 << 20) if folder.name.startswith("full") else b""
if folder.name == "bitfit_0":
    sys.exit("no biases")
rows = [json.dumps({"step": step, "val/loss": 2.0 - step}) + chr(10) for step in (0, 1)]
(folder / "metrics.jsonl").write_text("".join(rows))
(folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
record = {"arrays": {"params/a": ["float32", [3]]}, "meta": {"num_parameters": 30}}
(folder / "checkpoints" / "1" / "checkpoint.json").write_text(json.dumps(record))
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Returns (main with a stand-in for the training program, its --output)."""
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("SECONDS", "0")
    command = property(lambda run: [str(tmp_path / "stand_in.py"), str(run.path), os.environ["SECONDS"]])
    monkeypatch.setattr(methods.Run, "command", command)
    old = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    yield lambda *more: methods.main([f"--config={tmp_path}/config.py", f"--output={tmp_path}/table", *more]), tmp_path / "table"
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), old, strict=True):
        signal.signal(number, handler)


def test_each_run_is_a_process_of_its_own_and_none_is_repeated(table, capsys):
    main, output = table
    assert main("--methods=lora,full,bitfit", "--seeds=1") == 1
    shown = capsys.readouterr().out
    assert "bitfit_0 ... exit code 1" in shown and "no biases" in shown
    assert report.usage(output / "full_0")[-1]["peak_bytes"] > 300 << 20  # what it held; a process that starts it may have had more
    assert main("--methods=lora,full", "--seeds=2") == 0
    assert [(output / name / "starts").read_text() for name in ("lora_0", "full_0", "lora_1")] == ["x"] * 3
    assert (output / "methods.md").read_text().count("1.0000 ± 0.0000 | 2") == 2
    with lock.RunLock(output), pytest.raises(UserError, match="run.lock|in use|works in"):
        main("--methods=lora", "--seeds=3")
    used = report.usage(output / "lora_0")
    (output / "lora_0" / report.USAGE).write_text(json.dumps([dict(used[0], command=["other"])]))
    with pytest.raises(UserError, match="lora_0 was begun by another command"):
        main("--methods=lora", "--seeds=1")


def test_a_stopped_run_is_gone_on_with(table, monkeypatch, capsys):
    main, output = table
    monkeypatch.setenv("SECONDS", "60")

    def stop():
        while not (output / "lora_0" / "starts").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    assert main("--methods=lora", "--seeds=2") == 75
    thread.join()
    assert "goes on from here" in capsys.readouterr().out and not (output / "lora_1").exists()
    used = report.usage(output / "lora_0")
    assert [each["exit_code"] for each in used] == [-signal.SIGTERM]
    assert not methods.Run(output / "lora_0", ()).done()


def test_plans(tmp_path):
    """Of a config with METHODS by its argument, of any other by adapters; everything that is wrong is said before anything starts."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "any.py").write_text(CONFIG)
    runs, config = methods.plan(f"{tmp_path}/own.py:size=7", "all", 2, tmp_path, ["--config.lr=0.5"])
    assert [run.path.name for run in runs] == ["low_0", "high_0", "low_1", "high_1"] and (config.total_steps, config.lr) == (7, 0.5)
    assert runs[3].flags == (f"--config={tmp_path}/own.py:size=7,method=high", "--config.lr=0.5", "--config.seed=1")
    assert runs[3].command == ["-m", "decoder_lab.main", *runs[3].flags, f"--workdir={tmp_path}/high_1"]
    runs, config = methods.plan(f"{tmp_path}/any.py", "all", 1, tmp_path, [])
    assert {"lora_0", "full_0", "prefix_0"} <= {run.path.name for run in runs} and "freeze_0" not in {run.path.name for run in runs}
    assert all(f"--config.adapt.name={run.path.name[:-2]}" in run.flags for run in runs) and config.adapt.name
    with pytest.raises(UserError, match='--methods: "lor" is not known. Did you mean "lora"'):
        methods.plan(f"{tmp_path}/any.py", "lora,lor", 1, tmp_path, [])
    with pytest.raises(UserError, match="learning_rate"):
        methods.plan(f"{tmp_path}/any.py", "lora", 1, tmp_path, ["--config.learning_rate=1"])
    with pytest.raises(UserError, match="expected one method or more"):
        methods.plan(f"{tmp_path}/any.py", "", 1, tmp_path, [])


def test_the_score_and_its_direction_are_known_before_anything_starts(table, tmp_path):
    """That a config chooses its checkpoint by the lowest loss does not make the lowest accuracy the best."""
    main, output = table
    _, config = methods.plan(f"{tmp_path}/config.py", "lora", 1, tmp_path, [])
    assert methods.score(config, None, None) == methods.score(config, "val/loss", None) == ("val/loss", "min")
    assert methods.score(config, "val/accuracy", None) == ("val/accuracy", "max")
    assert methods.score(config, "val/accuracy", "min") == ("val/accuracy", "min")
    with pytest.raises(UserError, match="--metric: say which"):
        methods.score(config, "", None)
    for typed, told in (("vla/accuracy", 'Did you mean "val"'), ("val/acuracy", 'Did you mean "val/accuracy"')):
        for mode in ([], ["--mode=max"]):
            with pytest.raises(UserError, match=f"--metric: .*{told}"):
                main("--methods=lora", "--seeds=1", f"--metric={typed}", *mode)
    assert not output.exists()
    assert main("--methods=lora", "--seeds=1") == 0
    with pytest.raises(UserError, match="has no train/los.* It has: val/loss"):
        main("--methods=lora", "--seeds=2", "--metric=train/los", "--mode=min")
    assert not (output / "lora_1").exists()
