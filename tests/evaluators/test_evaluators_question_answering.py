"""The evaluator of answers: all references count, and no answer where the threshold says so."""

import types

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.evaluators import question_answering

PAIRS = [
    (["dog", "a dog"], dict(answer="the dog", score=-1.0, no_answer=-2.0)),
    ([], dict(answer="fish", score=-3.0, no_answer=-0.5)),
    (["3 cats"], dict(answer="cats", score=-1.0, no_answer=-0.5)),
]


def run(**kw):
    found = [({"context": "", "question": "?", "answers": [{"text": t, "start": 0} for t in texts]}, made) for texts, made in PAIRS]
    context = types.SimpleNamespace(predictions=lambda *_, **__: found, task=types.SimpleNamespace(join=None))
    return question_answering.Evaluator(context, **kw).run("state")


def test_without_threshold_every_question_is_answered():
    found = run()
    assert found["exact_match"] == pytest.approx(100 / 3) and found["f1"] == pytest.approx(100 * (1 + 0 + 2 / 3) / 3)
    assert "answered: 'the dog'  expected: dog | a dog" in found["report"]


@pytest.mark.parametrize("threshold, expected", [(0.0, (100 * 2 / 3, 50, 100)), (1.0, (100 * (1 + 1 + 2 / 3) / 3, 100 * 5 / 6, 100))])
def test_the_threshold_decides_on_no_answer(threshold, expected):
    found = run(rules="squad2", no_answer_threshold=threshold, table=False)
    assert (found["f1"], found["has_answer_f1"], found["no_answer_f1"]) == pytest.approx(expected)


def test_settings_and_tasks_that_do_not_fit_are_said():
    kw = dict(limit=None, batch_size=None, rules="squad", no_answer_threshold=0.0)
    assert len(question_answering.problems(kw)) == 1 and not question_answering.problems({**kw, "rules": "squad2"})
    context = types.SimpleNamespace(predictions=lambda *_, **__: [], task=None)
    with pytest.raises(UserError, match="question_answering"):
        question_answering.Evaluator(context).run("state")
