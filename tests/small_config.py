"""A config at a size that trains two steps in seconds: the same plug-ins and the same data format, everything that is a size tiny."""

import json

from decoder_lab.core import config as config_lib
from decoder_lab.training import experiment as experiments
from decoder_lab.training import resume

# settings of a model, and of what is nested in it, where they are numbers
MODEL = dict(
    num_layers=1, num_heads=2, num_kv_heads=1, width=8, embedding_dim=8, mlp_dim=16, projection_dim=8, attention_dim=8, readout_dim=8,
    filters=4, num_buckets=16, character_dim=4, character_features=4, character_buckets=16, modelling_layers=1,
)  # fmt: skip
TASK = dict(max_source_length=32, max_target_length=24, max_question_length=24, max_characters=6, characters=6, stride=16, loss_chunk=8)
EVALUATOR = dict(limit=8, batch_size=8, num_tokens=8, beam_size=2)
SOURCE = dict(num_train=64, num_evaluation=16)  # of source synthetic, whose own sizes are None
LENGTH = 64


def small(config, folder=None):
    """Returns a complete, checked config of two steps; `config` is complete too. A teacher that it needs is made in `folder`."""
    tree = json.loads(config_lib.to_json(config))
    shrink(tree["model"]["kw"], MODEL)
    shrink(tree["task"]["kw"], TASK)
    tree |= dict(total_steps=2, total_epochs=None, batch_size=8, sequence_length=min(LENGTH, tree["sequence_length"]), dtype="float32")
    if tree["accumulate"] > 1:
        tree |= dict(accumulate=2, batch_size=16)
    tree["schedule"]["kw"] |= {name: "1" for name in ("warmup", "decay") if tree["schedule"]["kw"].get(name, "0") != "0"}
    tree["init_from"]["workdir"] = ""  # there is no such run here
    data = tree["data"]
    for side in ("tokenizer", "source_tokenizer"):
        if data[side] and data[side]["name"] in ("sentencepiece", "huggingface"):
            data[side] = dict(name="byte", kw={})
    if data["source"]["name"] == "synthetic":
        data["source"]["kw"] |= SOURCE
    if data["packing"]["name"] == "buckets":
        data["packing"]["kw"]["num_buckets"] = 1
    for evaluator in tree["evaluators"].values():
        evaluator["kw"] |= {k: v for k, v in EVALUATOR.items() if k in evaluator["kw"]}
        evaluator["every"] = "2" if evaluator["every"] != "0" else "0"
    tree["checkpoint"]["every"] = "2"
    tree["log"]["every"] = "1"
    if tree["task"]["name"] == "distillation":
        tree["task"]["kw"]["workdir"] = str(folder / "teacher")
        begin(config_lib.resolve({**tree, "task": tree["task"]["kw"]["task"]}), folder / "teacher")
    return config_lib.resolve(tree)


def begin(config, workdir):
    """Makes a run's folder with its parameters as they are before the first step."""
    experiment = experiments.Experiment(config, workdir, report=lambda line: None)
    workdir.mkdir()
    (workdir / "config.json").write_text(config_lib.to_json(config))
    resume.make_saver(config, workdir, print).save(0, {"params": experiment.init_params()}, meta={}, wait=True)


def shrink(node, sizes):
    """Sets the sizes in a nested dict that are numbers above 0 there."""
    for key, value in node.items():
        if isinstance(value, dict):
            shrink(value, sizes)
        elif key in sizes and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            node[key] = min(value, sizes[key])
