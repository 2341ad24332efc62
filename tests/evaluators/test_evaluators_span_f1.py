"""The evaluators of spans and answers: raw items against predictions, whatever the model knows."""

import types

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.evaluators import span_f1

PAIRS = [
    ({"words": ["a", "b"], "tags": ["B-x", "O"], "label": "p"}, ["B-x", "O"], "p"),
    ({"words": ["c", "d"], "tags": ["B-y", "I-y"], "label": "q"}, ["B-y", "O"], "q"),
    ({"words": ["e"], "tags": ["O"], "label": "q"}, ["O"], "p"),
]


def context(pairs, **task):
    def predictions(split, state, limit=None, batch_size=None):
        assert (split, state, limit, batch_size) == ("test", "state", 7, 3)
        return pairs

    return types.SimpleNamespace(predictions=predictions, task=types.SimpleNamespace(**task))


def run(pairs, **kw):
    task = dict(tags=(), join=None)
    return span_f1.Evaluator(context(pairs, **task), split="test", limit=7, batch_size=3, **kw).run("state")


def test_tags_are_scored_against_the_raw_items():
    """KNOWN_BUGS 22: span F1 over the raw tags, also those that the model does not know (y)."""
    found = run([(raw, tags) for raw, tags, _ in PAIRS])
    report, confusion = found.pop("report"), found.pop("confusion")
    assert confusion["labels"] == ["B-x", "B-y", "I-y", "O"] and confusion["matrix"] == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 2],
    ]
    assert found == pytest.approx({"precision": 50, "recall": 50, "f1": 50, "tag_accuracy": 80, "sentence_accuracy": 200 / 3})
    assert [line.split()[0] for line in report.splitlines()] == ["type", "x", "y", "all"]
    assert report.splitlines()[1].split() == ["x", "100.00", "100.00", "100.00", "1"]


def test_a_joint_model_has_intents_and_whole_utterances():
    found = run([(raw, {"tags": tags, "label": label}) for raw, tags, label in PAIRS], table=False)
    assert found["intent_accuracy"] == pytest.approx(200 / 3) and found["sentence_accuracy"] == pytest.approx(100 / 3)
    assert "report" not in found


def test_an_item_without_an_intent_is_scored_by_its_tags():
    joint = [({k: v for k, v in raw.items() if k != "label" or v == "q"}, {"tags": tags, "label": label}) for raw, tags, label in PAIRS]
    found = run(joint, table=False)  # the first has no intent now
    assert found["intent_accuracy"] == 50 and found["sentence_accuracy"] == pytest.approx(100 / 3)
    assert "intent_accuracy" not in run(joint[:1], table=False)


def test_items_without_tags_and_other_tasks_are_errors():
    with pytest.raises(UserError, match="no item of the test split has tags"):
        run([({"words": ["a"]}, ["O"])])
    with pytest.raises(UserError, match="tagging"):
        span_f1.Evaluator(context([]), split="test").run("state")
