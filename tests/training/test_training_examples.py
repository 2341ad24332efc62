"""A task of examples in the real loop: trained, killed, resumed, evaluated, asked for predictions; its plug-ins are in `pilot/`."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.data import feed
from decoder_lab.evaluators import mean
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop, resume

HERE = pathlib.Path(__file__).parent
STEPS = 14


@pytest.fixture(autouse=True)
def _pilot(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def one_device(monkeypatch):
    make_mesh = meshes.make_mesh
    monkeypatch.setattr(meshes, "make_mesh", lambda **kw: make_mesh(jax.devices()[:1], **kw))


def make_config(*overrides, **changes):
    delta = dict(
        total_steps=STEPS,
        batch_size=16,
        accumulate=2,
        sequence_length=48,
        ema=0.9,
        lr=1e-2,
        data=dict(source=dict(name="pilot.source"), packing=dict(name="buckets", kw=dict(num_buckets=3))),
        task=dict(name="pilot.task"),
        model=dict(name="pilot.model"),
        evaluators=dict(val=dict(name="mean", every="4", kw={})),
        checkpoint=dict(every="4", keep=2, keep_best=1),
        log=dict(every="1", writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    return config_lib.resolve({**delta, **changes}, overrides)


def make(config, workdir, report=lambda line: None):
    workdir.mkdir(parents=True, exist_ok=True)
    return experiments.Experiment(config, workdir, report=report)


def train(config, workdir):
    return loop.train(make(config, workdir), workdir)


def numbers(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]
    return [line for line in found if line.keys() != {"step"}]


def final(config, workdir):
    experiment = make(config, workdir)
    state, _, step = resume.make_saver(config, workdir, print).restore(resume.template(experiment), "latest")
    return step, tree.flatten(state.replace(key=jax.random.key_data(state.key)))


KILLER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from decoder_lab import main
from decoder_lab.data import feed
batch = feed.ExampleFeed.batch
def dying(self, step):
    if step == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch(self, step)
feed.ExampleFeed.batch = dying
main.main(sys.argv[2:])
"""


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """KNOWN_BUGS 19: over the border of an epoch, with numbers logged beyond the checkpoint that is resumed."""
    config = make_config()
    assert make(config, tmp_path / "whole").feed.steps_per_epoch < 12
    assert train(config, tmp_path / "whole") == 0
    (tmp_path / "config.py").write_text(f"import json\ndef get_config():\n  return json.loads({config_lib.to_json(config)!r})\n")
    arguments = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'killed'}"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, "-c", KILLER, str(HERE), *arguments]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
    assert 0 < max(line["step"] for line in numbers(tmp_path / "killed")) < STEPS
    assert train(config, tmp_path / "killed") == 0
    (step_a, a), (step_b, b) = (final(config, tmp_path / name) for name in ("whole", "killed"))
    assert step_a == step_b == STEPS and a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "killed")


def test_a_resume_that_changes_the_order_of_examples_is_said(tmp_path, monkeypatch):
    """Rows of a batch are multiples of devices * accumulate, so other devices make other batches of the same examples."""
    make_mesh, said = meshes.make_mesh, []
    monkeypatch.setattr(meshes, "make_mesh", lambda **kw: make_mesh(jax.devices()[:1], **kw))
    config = make_config("total_steps=1", "accumulate=1", "batch_size=24")
    assert train(config, tmp_path) == 0
    for devices in (1, 8):
        monkeypatch.setattr(meshes, "make_mesh", lambda devices=devices, **kw: make_mesh(jax.devices()[:devices], **kw))
        resume.start_state(make(config, tmp_path, said.append), resume.make_saver(config, tmp_path, said.append))
        assert any("another order" in line for line in said) == (devices == 8), said


def test_a_package_that_lacks_is_said_before_data_is_made(tmp_path, monkeypatch):
    from decoder_lab.evaluators import generation

    monkeypatch.setattr(generation.importlib.util, "find_spec", lambda name: None)
    text = dict(name="generation", every="2", kw=dict(metrics=("rouge",)))
    config = make_config("checkpoint.keep_best=0", "total_epochs=1", evaluators=dict(text=text))
    with pytest.raises(UserError, match="rouge_score"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_metrics_know_how_far_the_run_is(tmp_path):
    assert train(make_config("total_steps=4"), tmp_path / "run") == 0
    seen = [line["train/progress"] for line in numbers(tmp_path / "run") if "train/progress" in line]
    assert seen == [0.0, 0.25, 0.5, 0.75]
    assert not any("val/progress" in line for line in numbers(tmp_path / "run"))


def test_eight_devices_equal_one(tmp_path, monkeypatch):
    """KNOWN_BUGS 2: batches of rows for eight devices, given to one: same steps, same numbers, filler rows or not."""
    config = make_config("data.packing.kw.by=examples")
    assert train(config, tmp_path / "eight") == 0
    plan = make(config, tmp_path / "eight").feed.plan
    make_mesh = meshes.make_mesh
    monkeypatch.setattr(meshes, "make_mesh", lambda **kw: make_mesh(jax.devices()[:1], **kw))
    monkeypatch.setattr(feed.ExampleFeed, "plan", property(lambda self: plan, lambda self, value: None), raising=False)
    assert train(config, tmp_path / "one") == 0
    for eight, one in zip(numbers(tmp_path / "eight"), numbers(tmp_path / "one"), strict=True):
        assert eight.keys() == one.keys()
        for name, value in one.items():
            assert eight[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name


@pytest.mark.parametrize("by", ["tokens", "examples"])
def test_evaluation_is_the_same_for_every_batch_size(tmp_path, one_device, by):
    """KNOWN_BUGS 3: filler rows count for nothing, however many there are."""
    experiment = make(make_config(f"data.packing.kw.by={by}"), tmp_path / "run")
    state = experiment.init_state()
    context = experiments.Context(experiment)
    whole = mean.Evaluator(context, batch_size=1000).run(state)
    one_by_one = []
    for i in range(61):
        raw = experiment.items("validation")[i]
        features = experiment.task.example(raw)[0]
        one = {name: np.asarray(value)[None] for name, value in features.items()}
        one_by_one.append(float(experiment.task.metrics(experiment.model, state.params, one)["loss"][0]))
    assert whole["loss"] == pytest.approx(np.mean(one_by_one), rel=1e-5)
    for batch_size in (1, 7):
        found = mean.Evaluator(context, batch_size=batch_size).run(state)
        assert found.keys() == whole.keys() == {"loss", "accuracy"}
        assert found["loss"] == pytest.approx(whole["loss"], rel=1e-6) and found["accuracy"] == pytest.approx(whole["accuracy"])
    some = [mean.Evaluator(context, batch_size=size, limit=9).run(state)["loss"] for size in (1, 7, 50)]
    assert some == pytest.approx([np.mean([one_by_one[i * 61 // 9] for i in range(9)])] * 3, rel=1e-5)


@pytest.mark.parametrize("windows", [0, 5])
def test_predictions_are_in_the_order_of_the_split(tmp_path, windows):
    """Neither buckets nor filler rows nor the batch size show; an item of several windows comes as often, in order."""
    experiment = make(make_config(f"task.kw.windows={windows}"), tmp_path / "run")
    state, context = experiment.init_state(), experiments.Context(experiment)
    found = context.predictions("validation", state)
    assert found == context.predictions("validation", state, batch_size=1)
    items = [experiment.items("validation")[i] for i in range(61)]
    if windows:
        pieces = [(raw, raw["text"][i : i + windows]) for raw in items for i in range(0, len(raw["text"]), windows)]
    else:
        pieces = [(raw, raw["text"]) for raw in items]
    assert [(raw, value["text"]) for raw, value in found] == pieces
    logits = [
        experiment.model.apply({"params": context.params(state)}, tokens[None], np.ones((1, len(tokens)), int), True)
        for tokens in (experiment.tokenizer.encode(text) for _, text in pieces[:5])
    ]
    assert [value["label"] for _, value in found[:5]] == [experiment.task.labels[int(x.argmax())] for x in logits]
    few = context.predictions("validation", state, limit=7)  # whole items, with all their windows
    chosen = [i * 61 // 7 for i in range(7)]
    assert few == [(raw, value) for raw, value in found if raw["id"] in chosen] and {raw["id"] for raw, _ in few} == set(chosen)


def test_planned_shapes_are_said_once_and_no_surprise(tmp_path):
    said = []
    experiment = make(make_config(), tmp_path / "run", said.append)
    line = experiment.summary()
    assert f"{len(experiment.feed.shapes)} shapes of batches" in line and "padding" in line
    train_step, state = experiment.train_step(), experiment.init_state()
    for step in range(12):
        state, _ = train_step(state, meshes.shard_batch(experiment.feed.batch(step), experiment.mesh))
    assert not [line for line in said if "compiled again" in line]
    strange = {name: x[:16] for name, x in experiment.feed.batch(0).items()}
    strange = {name: np.repeat(x, 3, axis=1) if x.ndim > 1 else x for name, x in strange.items()}
    train_step(state, meshes.shard_batch(strange, experiment.mesh))
    assert len([line for line in said if "compiled again" in line]) == 1


def test_durations_count_real_examples(tmp_path):
    experiment = make(make_config("total_epochs=3"), tmp_path / "run")
    batches = experiment.feed.plan.num_batches
    clock = experiment.clockwork
    assert clock.total_steps == 3 * batches == clock.steps("3 epochs") == clock.steps("609 examples")
    assert clock.steps("100%") == 3 * batches and clock.steps("7 steps") == 7 and clock.steps("0 epochs") == 0
    tokens = sum(len(experiment.items("train")[i]["text"]) for i in range(203))
    assert clock.steps(f"{tokens} tokens") == pytest.approx(batches, abs=1)


def test_a_mixture_of_examples_keeps_its_weights_and_its_items(tmp_path):
    parts = dict(a=dict(name="pilot.source"), b=dict(name="pilot.source", kw=dict(scale=2)))
    data = dict(source=dict(name="mixture", kw=dict(parts=parts, weights=dict(a=3, b=1))), packing=dict(name="buckets"))
    experiment = make(make_config(data=data), tmp_path / "run")
    items, size = experiment.items("train"), int(experiment.feed.steps_per_epoch)
    counts = [0, 0]
    for batch in map(experiment.feed.batch, range(size)):
        for row, i in enumerate(batch["index"].tolist()):
            if i >= 0:
                tokens = batch["tokens"][row][batch["segments"][row] > 0]
                assert experiment.tokenizer.decode(tokens) == items[i]["text"]
                counts[i >= 203] += 1
    assert counts[0] / sum(counts) == pytest.approx(0.75, abs=0.01)


def test_facts_are_found_once_and_kept_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DECODER_LAB_CACHE", str(tmp_path / "cache"))
    said = []
    config = make_config("total_steps=2")
    assert make(config, tmp_path / "run", said.append).sizes["num_labels"] == 2
    assert make(config, tmp_path / "other", said.append).task.labels == ("first", "other")
    assert len([line for line in said if "looking through the train split" in line]) == 1
    facts = json.loads((tmp_path / "run" / "task.json").read_text())
    assert facts["facts"] == {"labels": ["first", "other"]} and train(config, tmp_path / "run") == 0
    whole = (tmp_path / "run" / "task.json").read_text()
    for wrong in (whole.replace("first", "frst"), whole[:-30], "[]", whole.replace("sha256", "sha")):
        (tmp_path / "run" / "task.json").write_text(wrong)
        with pytest.raises(UserError, match="task.json is damaged"):
            make(config, tmp_path / "run").task  # noqa: B018
    (tmp_path / "run" / "task.json").write_text(whole.replace("pilot.task", "another"))
    with pytest.raises(UserError, match='made by task "another", the config asks for "pilot.task"'):
        make(config, tmp_path / "run").task  # noqa: B018
    (tmp_path / "run" / "task.json").unlink()
    with pytest.raises(UserError, match="task.json is missing"):
        make(config, tmp_path / "run").task  # noqa: B018


def test_facts_of_other_settings_are_believed_only_where_they_are_the_same(tmp_path):
    """A run of labels that went on, by --allow_changes, as one of scores ended in a KeyError."""
    items = [{"text": "a b", "label": "1"}, {"text": "b", "label": "2"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items * 20))
    data = dict(source=dict(name="jsonl", kw=dict(path=str(tmp_path / "data.jsonl"))), packing=dict(name="buckets"))
    task, model = dict(name="classification"), dict(name="classifier", kw=dict(variant="bag"))
    assert make(make_config(data=data, task=task, model=model), tmp_path / "run").task.labels == ("1", "2")
    same = make(make_config("task.kw.keep=tail", "sequence_length=32", data=data, task=task, model=model), tmp_path / "run")
    assert same.task.labels == ("1", "2")
    other = make(make_config("task.kw.kind=score", data=data, task=task, model=model), tmp_path / "run")
    with pytest.raises(UserError, match=r"other settings of the task \(kind\)"):
        other.task  # noqa: B018


def test_a_classifier_begins_from_a_masked_language_model(tmp_path):
    """Its vocabulary has one id more, the mask token; `first_rows` leaves that row."""
    encoder = dict(encoder=dict(name="bag_of_embeddings", kw=dict(embedding_dim=4, ngrams=1)))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": f"text {i}", "label": str(i % 2)}) + "\n" for i in range(40)))
    source = dict(name="jsonl", kw=dict(path=str(tmp_path / "data.jsonl")))
    masked = make_config(
        task="masked_language_modeling", model=dict(name="masked_lm", kw=encoder), data=dict(source=source, packing=dict(name="split"))
    )
    first = make(masked, tmp_path / "masked")
    (tmp_path / "masked" / "config.json").write_text(config_lib.to_json(masked))
    params = first.init_params()
    with resume.make_saver(masked, tmp_path / "masked", print) as saver:
        saver.save(0, first.init_state(params), {}, {"val/loss": 0.0})
    said = []

    def begin(name, *overrides):
        rules = (f"init_from.workdir={tmp_path / 'masked'}", "init_from.include=^encoder/", *overrides)
        data = dict(source=source, packing=dict(name="buckets"))
        config = make_config(*rules, task="classification", model=dict(name="classifier", kw=encoder), data=data)
        return resume.start_state(make(config, tmp_path / name, said.append), resume.make_saver(config, tmp_path / name, print))[0].params

    with pytest.raises(UserError, match="init_from.first_rows=encoder/token_embedding/embedding takes"):
        begin("refused")
    found = tree.flatten(begin("taken", "init_from.first_rows=token_embedding"))
    for path, leaf in tree.flatten(params).items():
        if path.startswith("encoder/"):
            np.testing.assert_array_equal(np.asarray(leaf)[: len(found[path])], np.asarray(found[path]))
    assert any("first 257 of 258 rows" in line for line in said) and not any("warning: the tokenizer" in line for line in said)
    begin("another", "init_from.first_rows=token_embedding", "data.tokenizer.name=character")
    assert any("warning: the tokenizer is not that of" in line for line in said)


def test_what_is_left_out_is_said_each_time(tmp_path):
    config = make_config("task.kw.shortest=10")
    for _ in range(2):  # made, and from the cache
        said = []
        rows = make(config, tmp_path / "run", said.append).rows("train")
        left_out = sum(len(make(config, tmp_path / "run").items("train")[i]["text"]) < 10 for i in range(203))
        assert len(rows.examples) == 203 - left_out and f"items left out: {left_out}" in said[-1]


def test_parts_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(UserError, match=r'needs num_labels(.|\n)*task is "language_modeling"'):
        make(make_config(task=dict(name="language_modeling"), data=dict(source=dict(name="pilot.source"))), tmp_path / "a").model  # noqa: B018
    with pytest.raises(UserError, match='"split", which packs tokens, but the task gives examples(.|\n)*buckets'):
        make(make_config("data.packing.name=split"), tmp_path / "b").tokenizer  # noqa: B018  before one is trained
    with pytest.raises(
        UserError, match='"packed", which puts several examples into a row(.|\n)*buckets'
    ):  # though all features are as long
        make(make_config("data.packing.name=packed"), tmp_path / "b").tokenizer  # noqa: B018
    with pytest.raises(UserError, match=r"examples have more than sequence_length = 8 tokens"):
        make(make_config("sequence_length=8"), tmp_path / "c").rows("train")
    with pytest.raises(UserError, match="kept none"):
        make(make_config("task.kw.shortest=1000"), tmp_path / "d").rows("train")
