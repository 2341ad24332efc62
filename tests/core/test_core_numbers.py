"""A number that no evaluator gives is found in the config, before anything runs; what is the user's own is left alone."""

import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup, numbers
from decoder_lab.core.errors import UserError

MEAN = dict(name="mean", kw={}, every="10%")
TAGGING = dict(name="tagging", kw={})


@pytest.mark.parametrize("task", lookup.names("task"))
def test_every_task_says_its_numbers(task):
    assert "loss" in numbers.of_task(dict(name=task, kw={}))


@pytest.mark.parametrize("name", sorted(set(lookup.names("evaluator")) - {"loss_by_position"}))  # whose parts end with the longest row
def test_every_evaluator_says_its_numbers(name):
    found = numbers.of_evaluator(dict(name=name, kw={}), TAGGING)
    assert isinstance(found, list) and len(set(found)) == len(found)


def test_numbers_follow_the_settings():
    assert numbers.of_evaluator(MEAN, TAGGING) == ["loss", "accuracy"]
    inside = dict(name="classification", kw=dict(kind="score"))
    assert {"kl", "rmse", "loss"} <= set(numbers.of_evaluator(MEAN, dict(name="distillation", kw=dict(task=inside))))
    assert numbers.of_evaluator(dict(name="retrieval", kw=dict(at=(3,))), TAGGING)[:2] == ["recall@3", "mrr"]
    assert "has_answer_f1" in numbers.of_evaluator(dict(name="question_answering", kw=dict(rules="squad2")), TAGGING)
    assert numbers.of_evaluator(dict(name="generation", kw=dict(metrics=("rouge",))), TAGGING) == [
        "rouge1",
        "rouge2",
        "rougeL",
        "cut",
        "length",
    ]


@pytest.mark.parametrize(
    "number, said",
    [
        ("val/loss", None),
        ("train/anything", None),
        ("own/anything", None),
        ("val/acuracy", '"val/acuracy" is not known. Did you mean "val/accuracy"'),
        (
            "vla/loss",
            'vla/loss comes from no evaluator of the config. Did you mean "val"? There are: val/..., own/..., once/..., train/...',
        ),
        ("once/loss", "once/loss is never worked out, as evaluators.once.every is '0'"),
    ],
)
def test_what_no_run_gives_is_said(number, said, tmp_path, monkeypatch):
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "evaluator.py").write_text("class Evaluator:\n    context: object\n\n\ndef numbers(found):\n    return found\n")
    monkeypatch.syspath_prepend(tmp_path)
    evaluators = dict(val=MEAN, own=dict(name="my.evaluator", kw={}, every="10%"), once=dict(MEAN, every="0"))
    found = numbers.problem("--metric", number, evaluators, TAGGING)
    assert found is None if said is None else found.startswith("--metric: ") and said in found


@pytest.mark.parametrize("metric", ["val/acuracy", "train/loss"])
def test_a_config_whose_best_checkpoint_is_never_found_is_refused(metric):
    with pytest.raises(UserError, match="checkpoint.metric: .*Or set checkpoint.keep_best to 0"):
        config_lib.resolve(dict(checkpoint=dict(metric=metric)))
    assert config_lib.resolve(dict(checkpoint=dict(metric=metric, keep_best=0))).checkpoint.metric == metric


def test_a_class_that_inherits_may_give_more_numbers_than_its_base(tmp_path, monkeypatch):
    (tmp_path / "heirs").mkdir()
    for kind, base in (("task", "tasks import language_modeling as base"), ("evaluator", "evaluators import mean as base")):
        text = f"from decoder_lab.{base}\n\n\nclass {kind.title()}(base.{kind.title()}):\n    pass\n"
        (tmp_path / "heirs" / f"{kind}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert numbers.of_task(dict(name="heirs.task", kw={})) is None
    assert numbers.of_evaluator(dict(name="heirs.evaluator", kw={}), TAGGING) is None
    config = config_lib.resolve(dict(task="heirs.task", checkpoint=dict(metric="val/nats"), evaluators=dict(val=dict(MEAN))))
    assert config.checkpoint.metric == "val/nats"


@pytest.mark.parametrize("metrics", [3, None, "bleu"])
def test_an_evaluator_that_is_wrong_itself_is_not_asked(metrics):
    evaluators = dict(val=dict(name="generation", kw=dict(metrics=metrics), every="10%"))
    delta = dict(evaluators=evaluators, checkpoint=dict(metric="val/bleu"), task="sequence_to_sequence")
    with pytest.raises(UserError, match="evaluators.val.kw.metrics: got") as said:
        config_lib.resolve(delta)
    assert "checkpoint.metric" not in str(said.value)


def test_a_function_of_a_user_that_fails_is_named(tmp_path, monkeypatch):
    (tmp_path / "fails").mkdir()
    code = "class Evaluator:\n    context: object\n\n    def run(self, state):\n        return {}\n\n\n"
    code += "def numbers(kw, task):\n    return math.pi\n"
    (tmp_path / "fails" / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="evaluator fails.mine: its `numbers` failed: NameError"):
        numbers.problem("--metric", "own/x", dict(own=dict(name="fails.mine", kw={}, every="10%")), TAGGING)
    delta = dict(evaluators=dict(own=dict(name="fails.mine", kw={}, every="10%")), checkpoint=dict(metric="own/x"))
    with pytest.raises(UserError, match="1 problem(.|\n)*its `numbers` failed: NameError"):
        config_lib.resolve(delta)
