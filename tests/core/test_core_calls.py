"""What a task hands on to a model that does not know it is found in the config, by name; what cannot be told is left alone."""

import pathlib
import re

import pytest

from decoder_lab.core import calls, lookup
from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError

SAMPLED = dict(name="sequence_to_sequence", kw=dict(scheduled_sampling="linear", sampling_rate=0.25))
MODELS = {
    "mine.plain": "  def __call__(self, tokens_BT, *, memory=None):\n    return tokens_BT\n",
    "mine.knows": "  def __call__(self, tokens_BT, *, sampling_rate=0.0):\n    return tokens_BT\n",
    "mine.passes": "  def __call__(self, tokens_BT, **more):\n    return tokens_BT\n",
    "mine.inherits": "  pass\n",
}


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, body in MODELS.items():
        for kind in ("Model", "Decoder"):
            path = folder / f"{name.partition('.')[2]}{'_decoder' if kind == 'Decoder' else ''}.py"
            path.write_text(f"import flax.linen as nn\nclass {kind}(nn.Module):\n{body}")
    monkeypatch.syspath_prepend(tmp_path)
    lookup._read.cache_clear()
    calls._arguments.cache_clear()


def pair(decoder):
    return dict(name="encoder_decoder", kw=dict(decoder=dict(name=decoder, kw={})))


@pytest.mark.parametrize("decoder", lookup.names("decoder"))
def test_scheduled_sampling_with_a_decoder_that_has_none_is_one_problem_of_the_config(decoder):
    """No decoder of the lab is left untold, and a run without scheduled sampling is told nothing."""
    delta = dict(task=SAMPLED, model=pair(decoder), sequence_length=64)
    config_lib.resolve(delta, ["task.kw.scheduled_sampling=none", "task.kw.sampling_rate=0"])
    if decoder == "recurrent":
        config_lib.resolve(delta)
        return
    said = (
        f'task: scheduled_sampling="linear": expected a decoder that knows sampling_rate, got "{decoder}". Those of the lab that do: '
        "recurrent. Or go without this setting."
    )
    with pytest.raises(UserError, match=rf"1 problem(.|\n)*{re.escape(said)}"):
        config_lib.resolve(delta)


def test_presets_and_tasks_inside_others_are_asked_too():
    with pytest.raises(UserError, match='task: scheduled_sampling(.|\n)*got "transformer"'):
        config_lib.resolve(dict(task=SAMPLED, model=dict(name="encoder_decoder", kw=dict(variant="t5-small"))))
    config_lib.resolve(dict(task=SAMPLED, model=dict(name="encoder_decoder", kw=dict(variant="bahdanau2014"))))
    with pytest.raises(UserError, match='task.kw.task: scheduled_sampling(.|\n)*got "convolutional"'):
        config_lib.resolve(dict(task=dict(name="distillation", kw=dict(workdir="x", task=SAMPLED)), model=pair("convolutional")))


@pytest.mark.parametrize("task", [name for name in lookup.names("task") if name != "distillation"])
def test_a_model_that_gives_something_else_is_a_problem_of_the_config(task):
    """A classifier's logits as those of tokens would train, and mean nothing; most other pairs end in a traceback."""
    models = {name: lookup.output("model", name) for name in lookup.names("model")}
    fitting = [name for name, output in models.items() if output == lookup.output("task", task)]
    assert fitting and all(models.values())
    for name in models:
        found = calls.problems(dict(name=task, kw={}), dict(name=name, kw={})) if name not in fitting else []
        assert len(found) == (name not in fitting) and all(
            f"Models for this task: {', '.join(fitting)}. Tasks for" in line for line in found
        )
        of_model = [re.fullmatch(r".*Tasks for this model: (.*)\.", line)[1].split(", ") for line in found]
        assert all(task not in tasks and {lookup.output("task", t) for t in tasks} == {models[name]} for tasks in of_model)


def test_what_a_file_does_not_say_is_not_asked(tmp_path):
    """Nor is it taken from the class that it inherits from, whose result it may have made another."""
    base = "from decoder_lab.models import {0}\nclass Model({0}.Model):\n  pass\n"
    for name, output in (("silent", ""), ("loud", 'OUTPUT = "tags"\n')):
        (tmp_path / "mine" / f"{name}.py").write_text(base.format("decoder_only") + output)
    task = dict(name="classification", kw={})
    assert calls.problems(task, dict(name="mine.silent", kw={})) == []
    assert "model mine.loud gives tags. Models for this task: classifier" in calls.problems(task, dict(name="mine.loud", kw={}))[0]
    with pytest.raises(
        UserError, match="1 problem(.|\n)*task: classification learns from labels, and model decoder_only gives next tokens"
    ):
        config_lib.resolve(dict(task="classification"))


@pytest.mark.parametrize("of", ["model", "decoder"])
@pytest.mark.parametrize("name", MODELS)
def test_a_users_own_call_is_read_not_imported(of, name):
    model = dict(name=name, kw={}) if of == "model" else pair(f"{name}_decoder")
    found = calls.problems(SAMPLED, model)
    assert len(found) == (name == "mine.plain") and all(f'expected a {of} that knows sampling_rate, got "{name}' in f for f in found)


def test_a_users_own_needs_that_fails_is_said(tmp_path):
    task = "from decoder_lab.tasks import sequence_to_sequence\nclass Task(sequence_to_sequence.Task):\n  pass\n"
    (tmp_path / "mine" / "own.py").write_text(task)
    assert "sampling_rate" in calls.problems(dict(SAMPLED, name="mine.own"), pair("transformer"))[0]  # its base class says it
    (tmp_path / "mine" / "failing.py").write_text(f"{task}\ndef needs(kw):\n  return {{unknown: 1}}\n")
    with pytest.raises(UserError, match="task mine.failing: its `needs` failed: NameError"):
        calls.problems(dict(SAMPLED, name="mine.failing"), pair("transformer"))
    (tmp_path / "mine" / "other.py").write_text(f"{task}\ndef needs(kw, more):\n  return 1\n")
    assert calls.problems(dict(SAMPLED, name="mine.other"), pair("transformer")) == []


def test_the_config_that_shows_it_resolves():
    path = str(pathlib.Path(__file__).parents[2] / "experiments" / "sequence_to_sequence" / "reverse.py")
    assert config_lib.load(path).task.kw.scheduled_sampling == "none"
    task = config_lib.load(f"{path}:sampling=0.25").task.kw
    assert (task.scheduled_sampling, task.sampling_rate) == ("linear", 0.25)
    with pytest.raises(UserError, match='got "transformer"'):
        config_lib.load(f"{path}:sampling=0.25", ["model.kw.decoder.name=transformer"])
