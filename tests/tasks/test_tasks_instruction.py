"""Instruction tuning: only the assistant's words and their end are learned, packed or apart; a tuned model answers and stops."""

import io
import json
import types

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core import config as config_lib
from decoder_lab.data import examples as example_lib
from decoder_lab.data.packing import packed
from decoder_lab.data.tokenizer.byte import Tokenizer
from decoder_lab.decoding.generate import Generator
from decoder_lab.models.decoder_only import Model
from decoder_lab.serving import generate
from decoder_lab.tasks.instruction import Task, problems
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop, resume

EOS = 256
TURNS = [
    dict(role="user", content="2 or 3?"),
    dict(role="assistant", content="3"),
    dict(role="user", content="and now?"),
    dict(role="assistant", content="2"),
]


def said(example):
    return Tokenizer().decode(example["labels"][example["weights"] > 0]), (example["labels"][example["weights"] > 0] == EOS).sum()


def test_the_labels_with_weight_are_what_the_assistant_says_and_the_ends():
    """KNOWN_BUGS 8, 9."""
    task = Task(Tokenizer(), 128)
    example = task.example({"messages": TURNS})
    assert said(example) == ("32", 2) and example["labels"][-1] == EOS
    assert (example["tokens"][1:] == example["labels"][:-1]).all()
    assert said(task.example({"source": "2 or 3?", "target": "3"})) == ("3", 1)
    briefed = Task(Tokenizer(), 128, system="Be brief.")
    assert Tokenizer().decode(briefed.example({"messages": TURNS})["tokens"]).startswith("System:\nBe brief.User:\n2 or 3?Assistant:\n3")
    assert task.prompt({"messages": TURNS}) == task.prompt({"messages": TURNS[:3]})
    assert task.prompt({"source": "2 or 3?"})["tokens"] == task.prompt({"source": "2 or 3?", "target": "3"})["tokens"]
    assert task.pair({"messages": TURNS})["source"] == "and now?" and task.pair({"messages": TURNS})["target"] == "2"
    assert sorted(task.texts({"source": "a", "target": "b"})) == ["a", "b"]


def test_cached_examples_are_of_these_settings_and_of_this_template():
    """KNOWN_BUGS 10: whatever changes what is written makes new examples, the tokenizer's template too."""

    class Templated(Tokenizer):
        chat_template = None

    templated = [Templated() for _ in range(3)]
    for tokenizer, source in zip(templated, ("{{ messages }}", "{{ messages }} ", None), strict=True):
        tokenizer.chat_template = None if source is None else types.SimpleNamespace(source=source)
    tasks = [Task(tokenizer, 64) for tokenizer in templated]
    tasks += [Task(templated[2], 64, system="Be brief."), Task(templated[2], 64, too_long="drop"), Task(templated[2], 65)]
    prints = [task.fingerprint() for task in tasks]
    assert len(set(prints)) == len(prints) and Task(templated[2], 64).fingerprint() == prints[2]


def test_long_conversations_are_cut_at_the_end_or_left_out_and_counted():
    """KNOWN_BUGS 8: no example without a target comes, and how many were left out is said."""
    raw, length = {"messages": TURNS}, len(Task(Tokenizer(), 999).example({"messages": TURNS})["tokens"])
    task = Task(Tokenizer(), length - 2)
    assert said(task.example(raw)) == ("3", 1) and len(task.example(raw)["tokens"]) == length - 2
    assert list(task.counts.values()) == [2] and "cut at the end" in next(iter(task.counts))
    short = Task(Tokenizer(), 10)
    assert short.example(raw) == [] and "nothing of the assistant" in next(iter(short.counts))
    dropping = Task(Tokenizer(), length - 2, too_long="drop")
    assert dropping.example(raw) == [] and list(dropping.counts.values()) == [1]
    assert Task(Tokenizer(), 99).example({"messages": TURNS[:1]}) == []
    assert len(problems(dict(label_smoothing=1.0, loss_chunk=-1))) == 2


def test_packed_conversations_know_nothing_of_each_other():
    """KNOWN_BUGS 4: the loss of rows that several share is that of each alone, and no other's words change a logit."""
    task = Task(Tokenizer(), 64)
    raws = [dict(source="ab", target="c"), dict(source="d", target="efg"), dict(source="hij", target="")]
    examples = [task.example(raw) for raw in raws]
    found = example_lib.in_memory(examples)
    ((_, batch),) = packed.Packing(found, 128).plan(4).evaluation()
    assert batch["segments"].max() == 3
    model = Model(257, 128, jnp.float32, num_layers=1, num_heads=2, width=16, init_stddev=0.3)  # learned positions: they must restart
    params = jax.jit(lambda: model.init(jax.random.key(0), task.dummy(), True, method=task.forward))()["params"]
    metrics = jax.jit(lambda batch: task.metrics(model, params, batch))
    together = metrics(batch)
    alone = [metrics({k: np.pad(v, (0, 48 - len(v)))[None] for k, v in example.items()}) for example in examples]
    for name in ("loss", "accuracy"):
        for part in (0, 1):
            np.testing.assert_allclose(together[name][part], sum(float(m[name][part]) for m in alone), rtol=1e-5)
    chunked = jax.jit(lambda batch: Task(Tokenizer(), 64, loss_chunk=32).metrics(model, params, batch))(batch)
    np.testing.assert_allclose(chunked["loss"][0], together["loss"][0], rtol=1e-5)


def test_a_tuned_model_answers_and_stops(tmp_path):
    """KNOWN_BUGS 9, 10: the end of a turn is learned; a prompt at the terminal goes through the same template as the training data."""
    answers = {"a": "xy", "bb": "z", "c": "uvwxyz"}
    items = [dict(instruction=q, input="", output=a) for q, a in answers.items()]
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(items * 16))
    fields = dict(source=("instruction", "input"), target="output")
    files = dict(train=str(tmp_path / "train.json"), validation=str(tmp_path / "val.json"), fields=fields)
    delta = dict(
        total_steps=50,
        batch_size=8,
        sequence_length=64,
        lr=1e-2,
        data=dict(source=dict(name="json", kw=files), tokenizer=dict(name="byte", kw={}), packing=dict(name="packed", kw={})),
        task=dict(name="instruction", kw={}),
        model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=32)),
        evaluators={},
        checkpoint=dict(every="100%", metric="", keep_best=0),
        log=dict(writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    experiment = experiments.Experiment(config_lib.resolve(delta), tmp_path / "run", report=lambda line: None)
    assert loop.train(experiment, tmp_path / "run") == 0
    params, _ = resume.inference_params(experiment, "latest")
    out, options = io.StringIO(), generate.Options(prompt=tuple(answers), num_tokens=30, temperature=0.0)
    generate.run(experiment.model, params, experiment.tokenizer, options, out, task=experiment.task)
    assert [line for line in out.getvalue().split("\n") if line and not line.startswith("---")] == list(answers.values())


def test_generation_stops_at_the_end_of_the_turn_that_the_task_names():
    """KNOWN_BUGS 9: of a chat model that is often another id than the tokenizer's end of text."""
    model = Model(257, 8, jnp.float32, num_layers=1, num_heads=1, width=4)
    assert Generator.for_task(model, Tokenizer(), types.SimpleNamespace(end_id=7)).eos_id == 7
    assert Generator.for_task(model, Tokenizer(), Task(Tokenizer(), 8)).eos_id == EOS
