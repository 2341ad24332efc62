"""The loop on several devices, what it reports, and what it leaves behind."""

import json

import jax
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop


def make_config(tmp_path, **changes):
    (tmp_path / "train.txt").write_text("\n\n".join("never odd or even " * n for n in range(1, 30)))
    (tmp_path / "val.txt").write_text("never even or odd " * 20)
    files = dict(train=str(tmp_path / "train.txt"), validation=str(tmp_path / "val.txt"), document_separator="\n\n")
    delta = dict(
        total_steps=6,
        batch_size=16,
        sequence_length=32,
        lr=1e-2,
        data=dict(source=dict(name="text", kw=files), packing=dict(name="documents", kw={})),
        model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16)),
        evaluators=dict(val=dict(name="mean", every="3", kw={})),
        checkpoint=dict(every="3"),
        log=dict(every="1", writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    return config_lib.resolve({**delta, **changes})


def numbers(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], k): v for line in lines for k, v in line.items() if not k.startswith("time/") and k != "step"}


def test_eight_devices_equal_one(tmp_path, monkeypatch):
    """KNOWN_BUGS 2: packed rows with unequal numbers of targets on each device; dropout does not depend on the layout either."""
    config = make_config(tmp_path, model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16, dropout=0.2)))
    assert len(jax.devices()) == 8
    loop.train(experiments.Experiment(config, tmp_path / "eight", report=lambda line: None), tmp_path / "eight")
    make_mesh = meshes.make_mesh
    monkeypatch.setattr(meshes, "make_mesh", lambda **sizes: make_mesh(jax.devices()[:1], **sizes))
    loop.train(experiments.Experiment(config, tmp_path / "one", report=lambda line: None), tmp_path / "one")
    eight, one = numbers(tmp_path / "eight"), numbers(tmp_path / "one")
    assert eight.keys() == one.keys() and (6, "val/loss") in one
    for name, value in one.items():
        assert eight[name] == pytest.approx(value, rel=2e-4), name


def test_a_batch_size_that_devices_cannot_share_is_refused_before_training(tmp_path):
    config = make_config(tmp_path, batch_size=12)
    with pytest.raises(UserError, match="8 or 16"):
        loop.train(experiments.Experiment(config, tmp_path / "run", report=lambda line: None), tmp_path / "run")


def test_a_new_shape_is_reported_and_the_usual_one_compiles_once(tmp_path):
    said = []
    experiment = experiments.Experiment(make_config(tmp_path), tmp_path / "run", report=said.append)
    train_step, state = experiment.train_step(), experiment.init_state()
    for step in range(3):
        state, _ = train_step(state, meshes.shard_batch(experiment.feed.batch(step), experiment.mesh))
    assert not [line for line in said if "compiled again" in line]
    half = {name: x[:8] for name, x in experiment.feed.batch(3).items()}
    train_step(state, meshes.shard_batch(half, experiment.mesh))
    assert len([line for line in said if "compiled again" in line]) == 1


def test_the_start_line_says_what_runs_where(tmp_path):
    said = []
    experiment = experiments.Experiment(make_config(tmp_path), tmp_path / "run", report=said.append)
    line = experiment.summary()
    for part in ("8 x cpu", "parameters", "512 tokens a step", "6 steps", "memory a device: params", "float32", "attention"):
        assert part in line, (part, line)


def test_the_checkpoint_metric_must_exist(tmp_path):
    with pytest.raises(UserError, match="val/loss"):
        config = make_config(tmp_path, checkpoint=dict(metric="val/los"))
        loop.train(experiments.Experiment(config, tmp_path / "run", report=lambda line: None), tmp_path / "run")
