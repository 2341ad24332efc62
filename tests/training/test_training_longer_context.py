"""A language model of short rows that learns to read longer ones: rotary positions scaled, a little more training, nothing else changed."""

import json
import random

import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop

OLD, NEW = 16, 32
SCALINGS = {
    "linear": dict(type="linear", factor=NEW / OLD),
    "ntk": dict(type="ntk", factor=NEW / OLD),
    "yarn": dict(type="yarn", factor=NEW / OLD, original_max_length=OLD),
}


def documents(length, number, seed):
    """Texts of one word each, over and over: after the first time it can be copied from six places before. With their end `length` ids."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(number)]
    return "\n\n".join((f"{word} " * length)[: length - 1] for word in words)


def trained(folder, name, length, steps, scaling=None, init=""):
    """Returns the lines of the log of a run: "at/0-15" and "at/beyond" are its losses by place, nats a byte."""
    for split, number, seed in (("train", 400, 0), ("val", 32, 1)):
        (folder / f"{split}{length}.txt").write_text(documents(length, number, seed))
    files = dict(train=str(folder / f"train{length}.txt"), validation=str(folder / f"val{length}.txt"), document_separator="\n\n")
    size = dict(num_layers=2, num_heads=2, width=32, norm="rms", position="rotary", rope_scaling=scaling)
    places = dict(name="loss_by_position", every="100%", kw=dict(borders=(min(OLD, length // 2),)))
    delta = dict(
        total_steps=steps,
        batch_size=16,
        sequence_length=length,
        lr=3e-3,
        data=dict(source=dict(name="text", kw=files), tokenizer=dict(name="byte", kw={}), packing=dict(name="documents", kw={})),
        model=dict(name="decoder_only", kw=size),
        evaluators=dict(at=places),
        checkpoint=dict(every="100%", metric="", keep_best=0),
        log=dict(every="100%", writers=dict(jsonl=dict(name="jsonl", kw={}))),
        init_from=dict(workdir=init),
    )
    experiment = experiments.Experiment(config_lib.resolve(delta), folder / name, report=lambda line: None)

    def keep():
        (folder / name / "config.json").write_text(config_lib.to_json(experiment.config))

    assert loop.train(experiment, folder / name, on_start=keep) == 0
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "at/beyond" in line]


@pytest.mark.slow
def test_scaled_positions_bring_what_a_model_has_learned_to_twice_the_length(tmp_path):
    """Copying, which the base fails at beyond its length, is there again after a few steps; linear scaling, which moves all, needs more."""
    base = trained(tmp_path, "base", OLD, 300)[-1]
    assert base["at/beyond"] < 0.6, "the base copies"
    for name, scaling in SCALINGS.items():
        before, *_, after = trained(tmp_path, name, NEW, 120 if name == "linear" else 40, scaling, str(tmp_path / "base"))
        assert before["at/beyond"] > 3 and after["at/beyond"] < 0.6, (name, before, after)
    anew = trained(tmp_path, "anew", NEW, 120)[-1]
    assert anew["at/beyond"] > 1.0, "a model that begins with long rows has not learned it yet"
