"""Every experiment says what was measured, builds, has its full size checked without memory, and can be trained at a small size.

Two steps are really trained for one config of each task, the others have theirs traced; with `-m slow` all are trained. Configs that take
arguments have a step of other arguments traced too.
"""

import ast
import functools
import json
import pathlib
import re

import jax
import pytest
import small_config
import small_data

from decoder_lab.core import chips, numbers
from decoder_lab.core import config as config_lib
from decoder_lab.data import interpreter
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel import topology
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop
from decoder_lab.training import plan as plans

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "experiments").rglob("*.py"))
TRAINED = {  # one for each task
    "experiments/classification/stdlib_package.py",
    "experiments/finetune/distillation.py",
    "experiments/finetune/instruction.py",
    "experiments/finetune/preference.py",
    "experiments/finetune/reward.py",
    "experiments/pretrain/masked_lm.py",
    "experiments/pretrain/prefix_lm.py",
    "experiments/pretrain/span_corruption.py",
    "experiments/pretrain/stdlib.py",
    "experiments/question_answering/stdlib_parameters.py",
    "experiments/retrieval/stdlib_docstring.py",
    "experiments/sequence_to_sequence/reverse.py",
    "experiments/tagging/ncbi_disease.py",
    "experiments/tagging/stdlib_joint.py",
}
RESOLVED = {  # other arguments of these are only made complete: to trace them needs a teacher's weights, or parses the library once more
    "experiments/classification/stdlib_claims.py",
    "experiments/classification/stdlib_constructs.py",
    "experiments/classification/stdlib_depth.py",
    "experiments/finetune/distillation.py",
    "experiments/question_answering/stdlib_parameters.py",
    "experiments/tagging/stdlib_identifiers.py",
    "experiments/tagging/stdlib_joint.py",
}
MAKE_MESH = meshes.make_mesh  # as it is without `one_device`
PACKAGES = ("asyncio/", "email/", "importlib/", "xml/", "unittest/")  # enough of the interpreter's library for every source made of it


@pytest.fixture(scope="module", autouse=True)
def fewer_files():
    """Parsing all of the interpreter's library for every source would take minutes."""
    names = tuple(name for name in interpreter.names() if name.startswith(PACKAGES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "names", lambda: names)
        yield


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Most of the time goes into compiling programs that run for two steps; several devices have their own tests."""
    monkeypatch.setattr(meshes, "make_mesh", functools.partial(meshes.make_mesh, jax.devices()[:1]))


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Path of an experiment -> (its complete config, the same at a small size), on small data where it reads a folder."""

    @functools.cache
    def loaded(path, variant=""):
        folder = tmp_path_factory.mktemp("data")
        small_data.MAKERS.get(path, lambda folder: None)(folder)
        arguments = [f"data={folder}"] if path in small_data.MAKERS else []
        arguments += [text for text in (small_data.ARGUMENTS.get(path), variant) if text]
        config = config_lib.load(f"{path}:{','.join(arguments)}".rstrip(":"))
        return config, small_config.small(config, folder)

    return loaded


@pytest.mark.parametrize("path", CONFIGS)
def test_opens_with_its_command_and_its_numbers(path):
    """The last cell of every row of the table is a number, or says that it was not measured; without a table both stand in the text."""
    doc = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert f"--config={path}" in doc, "a config opens with the command that runs it"
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in doc.splitlines() if line.startswith("|")]
    if not table:
        found = re.search(r"Hardware: .+ Time: .+ Measured: .+", " ".join(doc.split()))
        assert found, "a config says hardware, time, and what was measured"
        return
    head, _, *rows = table
    assert "hardware" in head and head[-1].startswith("measured")
    assert rows, "the table says what was measured, or that nothing was"
    for row in rows:
        assert len(row) == len(head), f"a cell for each of {head}: {row}"
        assert re.search(r"\d|not (yet )?measured", row[-1]), f"a number, or: not measured; got {row[-1]!r}"


@pytest.mark.parametrize("path", CONFIGS)
def test_full_size_builds_without_memory(path, load, tmp_path):
    """The full model under the task of the small size, whose data are small: labels and added tokens are its."""
    full, config = load(path)
    small = experiments.Experiment(config, tmp_path / "run", report=lambda line: None)
    sizes = small.sizes | {name: max(300, small.sizes[name]) for name in ("vocab_size", "source_vocab_size")}
    model = experiments.make_model(full, **sizes)
    shapes = jax.eval_shape(lambda key: model.init(key, small.task.dummy(), True, method=small.task.forward), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) > 1000


def test_one_config_of_each_task_is_trained(load):
    assert {load(path)[0].task.name for path in TRAINED} == {load(path)[0].task.name for path in CONFIGS}


@pytest.mark.parametrize("path", [path if path in TRAINED else pytest.param(path, marks=pytest.mark.slow) for path in CONFIGS])
def test_small_size_trains_two_steps(path, load, tmp_path):
    _, config = load(path)
    assert config.total_steps == 2
    workdir = tmp_path / "run"
    assert loop.train(experiments.Experiment(config, workdir, report=lambda line: None), workdir) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} >= {2}
    assert any(config.checkpoint.metric in line for line in lines), "the number that the best checkpoint is chosen by"
    assert any("val/loss" in line for line in lines)
    for key, evaluator in config.evaluators.items():
        known = numbers.of_evaluator(evaluator, config.task)
        written = {name for line in lines for name in line if name.startswith(f"{key}/")}
        assert known is None or written <= {f"{key}/{name}" for name in known}, "what it gives is known beforehand"


@pytest.mark.parametrize("path", sorted(set(CONFIGS) - TRAINED))
def test_small_size_traces_a_step_of_its_own_data(path, load, tmp_path):
    """Its evaluators are made, and its loss is worked out by shapes for the batch that training begins with."""
    _, config = load(path)
    experiment = experiments.Experiment(config, tmp_path / "run", report=lambda line: None)
    evaluators = experiments.make_evaluators(experiment)
    assert config.checkpoint.metric.split("/")[0] in evaluators
    batch = experiment.feed.batch(0)
    metrics = jax.eval_shape(experiment.training_metrics, experiment.parameter_shapes, batch, jax.random.key(0), 0.5)
    assert metrics["loss"][0].shape == metrics["loss"][1].shape == ()


def test_every_argument_of_a_choice_has_a_variant():
    def names(path):
        calls = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Call)]
        return {keyword.arg for call in calls if ast.unparse(call.func) == "parse_argument" for keyword in call.keywords}

    assert {path for path in CONFIGS if names(path) - small_data.PATHS} == small_data.VARIANTS.keys() >= RESOLVED


@pytest.mark.parametrize("path, arguments", [(path, one.strip()) for path, text in small_data.VARIANTS.items() for one in text.split("|")])
def test_other_arguments_trace_a_step(path, arguments, load, tmp_path):
    """Other arguments than the default ones give another complete config, and the loss of a step is worked out by shapes."""
    full, config = load(path, arguments)
    assert config_lib.to_json(full) != config_lib.to_json(load(path)[0])
    if path in RESOLVED:
        return
    experiment = experiments.Experiment(config, tmp_path / "run", report=lambda line: None)
    experiments.make_evaluators(experiment)
    batch = experiment.feed.batch(0)
    metrics = jax.eval_shape(experiment.training_metrics, experiment.parameter_shapes, batch, jax.random.key(0), 0.5)
    assert metrics["loss"][0].shape == metrics["loss"][1].shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS)
def test_small_size_is_planned_for_gpus(path, load, tmp_path, monkeypatch):
    """With its own data, in bfloat16, by two virtual devices in their place."""
    monkeypatch.setattr(meshes, "make_mesh", MAKE_MESH)
    config = config_lib.resolve(json.loads(config_lib.to_json(load(path)[1])), ["dtype=bfloat16"])
    chip = chips.find("H100")
    target = topology.Target(jax.devices()[:2], "gpu", chip, chip.memory, False)
    plan, _ = plans.make(plans.Planned(config, tmp_path / "run", lambda line: None, target.devices), target)
    assert plan.fits and plan.devices == 2 and plan.tokens > 0 and plan.parts["parameters"] > 0 and plan.times["memory"] > 0
    assert len(plans.lines(plan, "title")) >= 6
