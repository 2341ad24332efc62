"""The report equals its metrics over the predictions, for each kind of label."""

import types

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.evaluators import classification_report
from decoder_lab.tasks.classification import Task

ITEMS = {
    "single": [dict(text="a", label="x"), dict(text="b", label="y"), dict(text="c", label="y")],
    "multi": [dict(text="a", label=["x"]), dict(text="b", label=["x", "y"])],
    "score": [dict(text="a", label=1.0), dict(text="b", label=3.0), dict(text="c", label=2.0)],
}
SAID = {
    "single": [dict(label="x"), dict(label="y"), dict(label="x")],
    "multi": [dict(labels=["x"]), dict(labels=["y"])],
    "score": [dict(score=10.0), dict(score=30.0), dict(score=20.0)],
}


def evaluator(kind, **kw):
    task = Task(None, 8, kind=kind)
    task.load(task.fit(ITEMS[kind]))
    asked = []

    def predictions(split, state, limit=None, batch_size=None):
        asked.append((split, state, limit, batch_size))
        return list(zip(ITEMS[kind], SAID[kind], strict=True))

    context = types.SimpleNamespace(task=task, predictions=predictions)
    return classification_report.Evaluator(context, **kw), asked


def test_one_label():
    found, asked = evaluator("single", limit=3, batch_size=2)
    numbers = found.run("state")
    assert asked == [("validation", "state", 3, 2)]
    assert numbers["accuracy"] == pytest.approx(2 / 3) and numbers["f1_macro"] == pytest.approx(2 / 3)
    assert numbers["mcc"] == pytest.approx(0.5) and "rows are the truth" in numbers["report"]
    assert numbers["confusion"] == dict(kind="confusion", labels=["x", "y"], matrix=[[1, 0], [1, 1]])
    assert "report" not in evaluator("single", table=False)[0].run(None)


def test_several_labels_and_scores():
    numbers = evaluator("multi")[0].run(None)
    assert numbers["accuracy"] == 0.5 and numbers["recall_micro"] == pytest.approx(2 / 3) and numbers["precision_micro"] == 1
    numbers = evaluator("score")[0].run(None)
    assert numbers["pearson"] == pytest.approx(1) and numbers["spearman"] == pytest.approx(1) and numbers["mse"] == 378


def test_another_task_is_refused():
    found, _ = evaluator("single")
    found.context.task = object()
    with pytest.raises(UserError, match="use it with task classification"):
        found.run(None)
