"""The README's examples of plug-ins are run as they stand there: one file and one config each, no edit elsewhere."""

import ast
import io
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup
from decoder_lab.serving import generate
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop, resume

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = re.findall(
    r'name="(experiments\.mine\.\w+)", kw=(dict\(.*?\))\).*?```python\n(.*?)```', (ROOT / "README.md").read_text(), re.DOTALL
)
FIELDS = {"bent": "schedule", "poems": "source", "average": "model", "weighted": "task", "largest": "evaluator"}
ENCODER = "running"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The examples as files of a folder `lab_examples/mine`, and a small world around them."""
    folder = tmp_path / "lab_examples" / "mine"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    for name, _, code in EXAMPLES:
        (folder / f"{name.split('.')[-1]}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poems.txt").write_text("\n\n".join(f"poem {n}: roses are red, violets are blue" for n in range(60)))
    return tmp_path


def test_the_readme_has_an_example_of_each_kind():
    assert {name.split(".")[-1] for name, _, _ in EXAMPLES} == {*FIELDS, ENCODER}


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_an_example_trains_and_writes(mine, name):
    kw = next(eval(kw, {"dict": dict}) for found, kw, _ in EXAMPLES if found.endswith(name))
    plugin = dict(name=f"lab_examples.mine.{name}", kw=kw)
    delta = dict(
        total_steps=3,
        batch_size=8,
        sequence_length=16,
        data=dict(source=dict(name="text", kw=dict(path="poems.txt"))),
        model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16)),
        evaluators=dict(val=dict(name="mean", every="3", kw={})),
        log=dict(every="1", writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    if FIELDS[name] == "source":
        delta["data"]["source"] = plugin
    elif FIELDS[name] == "evaluator":
        delta["evaluators"]["own"] = dict(plugin, every="3")
    else:
        delta[FIELDS[name]] = plugin
    experiment = experiments.Experiment(config_lib.resolve(delta), mine / "run", report=lambda line: None)
    assert loop.train(experiment, mine / "run") == 0
    params, step = resume.inference_params(experiment, "latest")
    assert step == 3
    lines = [json.loads(line) for line in (mine / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("own/largest" in line for line in lines) == (FIELDS[name] == "evaluator")
    out = io.StringIO()
    options = generate.Options(prompt=("poem",), num_tokens=6, temperature=0.0, stream=False)
    generate.run(experiment.model, params, experiment.tokenizer, options, out=out)
    assert out.getvalue().startswith("poem")


def test_the_encoder_serves_a_classifier_and_reads_no_padding(mine):
    kw = next(eval(kw, {"dict": dict}) for found, kw, _ in EXAMPLES if found.endswith(ENCODER))
    encoder = dict(name=f"lab_examples.mine.{ENCODER}", kw=kw)
    plugin = config_lib.resolve(dict(task="classification", model=dict(name="classifier", kw=dict(encoder=encoder)))).model
    model = lookup.make("model", plugin, vocab_size=11, num_labels=3, max_length=8, dtype=jnp.float32)
    tokens, segments = np.array([[1, 2, 3, 0]]), np.array([[1, 1, 1, 0]])
    params = model.init(jax.random.key(0), tokens, segments_BS=segments)
    logits = [model.apply(params, tokens + [[0, 0, 0, n]], segments_BS=segments) for n in (0, 9)]
    assert logits[0].shape == (1, 3) and np.array_equal(*logits)


def test_names_in_the_table_are_the_names_there_are():
    text = (ROOT / "README.md").read_text()
    for kind in ("source", "tokenizer", "packing", "schedule", "adapter", "evaluator", "writer", "model"):
        row = next(line for line in text.splitlines() if line.startswith(f"| {kind} |"))
        missing = [name for name in lookup.names(kind) if f"`{name}`" not in row]
        assert not missing, f"README: the row of {kind} lacks {missing}"


def test_commands_in_the_readmes_name_files_that_exist():
    for page in ("README.md", "README.zh-CN.md"):
        text = (ROOT / page).read_text()
        paths = re.findall(r"(?:experiments|scripts|docs)/[\w./-]+\w", text)
        missing = [p for p in set(paths) if not (ROOT / p).exists() and "mine" not in p]
        assert not missing, (page, missing)
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            ast.parse(block)
