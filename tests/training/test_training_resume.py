"""Resumed equals uninterrupted, bit for bit: parameters, optimiser, average and every logged number (KNOWN_BUGS 19)."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import runtime, tree
from decoder_lab.core.errors import UserError
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop, resume

STEPS = 20


@pytest.fixture
def text(tmp_path):
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 9))) for _ in range(50)]
    for name, lines in (("train", 120), ("val", 20)):
        documents = [" ".join(rng.choice(words) for _ in range(rng.randint(2, 30))) for _ in range(lines)]
        (tmp_path / f"{name}.txt").write_text("\n\n".join(documents))
    return tmp_path


def make_config(text, **changes):
    """Packed documents, accumulation, dropout and an average: everything that could lose its place."""
    files = dict(train=str(text / "train.txt"), validation=str(text / "val.txt"), document_separator="\n\n")
    delta = dict(
        total_steps=STEPS,
        batch_size=16,
        accumulate=2,
        sequence_length=32,
        ema=0.9,
        lr=1e-2,
        data=dict(source=dict(name="text", kw=files), packing=dict(name="documents", kw={})),
        model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16, dropout=0.1)),
        evaluators=dict(val=dict(name="mean", every="5", kw={})),
        checkpoint=dict(every="5", keep=2, keep_best=1),
        log=dict(every="2", writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    return config_lib.resolve({**delta, **changes})


def train(config, workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    return loop.train(experiments.Experiment(config, workdir, report=lambda line: None), workdir)


def final_state(config, workdir, step="latest"):
    experiment = experiments.Experiment(config, workdir, report=lambda line: None)
    return resume.make_saver(config, workdir, print).restore(resume.template(experiment), step)


def numbers(workdir):
    """All logged numbers but those of the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def assert_same_run(config, one, other):
    a, meta_a, step_a = final_state(config, one)
    b, meta_b, step_b = final_state(config, other)
    assert step_a == step_b and meta_a["best"] == meta_b["best"]
    a, b = (s.replace(key=jax.random.key_data(s.key)) for s in (a, b))
    for path, x in tree.flatten(a).items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(tree.flatten(b)[path]), err_msg=path)
    assert numbers(one) == numbers(other)


class Crash(Exception):
    """Stands for a process that dies."""


def crash_at(monkeypatch, crash_step):
    from decoder_lab.data import feed

    batch = feed.Feed.batch

    def dying(self, step):
        if step == crash_step:
            raise Crash
        return batch(self, step)

    monkeypatch.setattr(feed.Feed, "batch", dying)


@pytest.mark.parametrize("crash_step", [3, 13])
def test_a_crash_loses_nothing(text, tmp_path, monkeypatch, crash_step):
    """Before the first checkpoint, and between two of them, with numbers already logged beyond the one that is resumed."""
    config = make_config(text)
    assert train(config, tmp_path / "whole") == 0
    with monkeypatch.context() as patched:
        crash_at(patched, crash_step)
        with pytest.raises(Crash):
            train(config, tmp_path / "crashed")
    assert train(config, tmp_path / "crashed") == 0
    assert_same_run(config, tmp_path / "whole", tmp_path / "crashed")


def test_a_stop_signal_saves_and_goes_on(text, tmp_path, monkeypatch):
    """SIGTERM finishes the step, saves, and ends with a code of its own; the same command goes on from there."""
    config = make_config(text)
    assert train(config, tmp_path / "whole") == 0
    with monkeypatch.context() as patched:
        from decoder_lab.data import feed

        batch = feed.Feed.batch

        def signalled(self, step):
            if step == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            return batch(self, step)

        patched.setattr(feed.Feed, "batch", signalled)
        assert train(config, tmp_path / "stopped") == runtime.EXIT_RESUMABLE == 75
    _, _, step = final_state(config, tmp_path / "stopped")
    assert 5 < step < STEPS
    assert train(config, tmp_path / "stopped") == 0
    assert_same_run(config, tmp_path / "whole", tmp_path / "stopped")


def test_a_damaged_newest_checkpoint_is_passed_over(text, tmp_path):
    config = make_config(text)
    assert train(config, tmp_path / "whole") == 0
    assert train(config, tmp_path / "damaged") == 0
    newest = max((tmp_path / "damaged" / "checkpoints").iterdir())
    assert newest.is_dir() and newest.name.endswith(str(STEPS))
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = []
    experiment = experiments.Experiment(config, tmp_path / "damaged", report=said.append)
    assert loop.train(experiment, tmp_path / "damaged") == 0
    assert any(str(STEPS) in line and "damaged" in line for line in said), said
    assert_same_run(config, tmp_path / "whole", tmp_path / "damaged")


def test_a_nonfinite_step_is_written_down_and_can_be_replayed(text, tmp_path):
    from decoder_lab.training import nonfinite

    config = make_config(text, lr=1e30, clip_norm=0.0, schedule=dict(name="constant", kw={}))
    with pytest.raises(UserError, match="mode=replay"):
        train(config, tmp_path / "run")
    experiment = experiments.Experiment(config, tmp_path / "run", report=lambda line: None)
    lines = list(nonfinite.replay(experiment, tmp_path / "run"))
    assert any("not finite" in line for line in lines) or "nan" in lines[0] or "inf" in lines[0], lines
    with pytest.raises(UserError, match="holds no step to replay"):
        list(nonfinite.replay(experiment, tmp_path / "other"))


COMMAND = [sys.executable, "-m", "decoder_lab.main"]


def run_command(text, workdir, environment):
    arguments = [f"--config={text / 'config.py'}", f"--workdir={workdir}"]
    return subprocess.Popen(COMMAND + arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_and_finish(text, tmp_path, kills, seed):
    """Kills runs at random moments and starts them again until one ends; returns (config, folder of it, folder of an unkilled run)."""
    config = make_config(text)
    (text / "config.py").write_text(f"import json\ndef get_config():\n  return json.loads({config_lib.to_json(config)!r})\n")
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])}
    whole = run_command(text, tmp_path / "whole", environment)
    output = whole.communicate()[0]
    assert whole.returncode == 0, output
    started = time.monotonic()
    again = run_command(text, tmp_path / "timed", environment)
    again.communicate()
    lasts, rng = time.monotonic() - started, random.Random(seed)
    for _ in range(kills):
        process = run_command(text, tmp_path / "killed", environment)
        time.sleep(rng.uniform(0.3, 1.0) * lasts)
        process.kill()
        process.communicate()
    last = run_command(text, tmp_path / "killed", environment)
    output = last.communicate()[0]
    assert last.returncode == 0, output
    return config, tmp_path / "whole", tmp_path / "killed"


def test_kill_9(text, tmp_path):
    """A process killed at a random moment, in a save or between two, and started again, ends as if nothing had happened."""
    assert_same_run(*kill_and_finish(text, tmp_path, kills=2, seed=0))


@pytest.mark.slow
def test_twenty_kills_at_random_moments(text, tmp_path):
    assert_same_run(*kill_and_finish(text, tmp_path, kills=20, seed=1))
