"""Span F1 equals seqeval's on random tag strings, valid or not, and the rules of conlleval one by one."""

import importlib.util
import json
import pathlib
import random

import pytest

from decoder_lab.metrics import span_f1

STORED = json.loads((pathlib.Path(__file__).parent / "seqeval.json").read_text())  # random strings with the answers of seqeval 1.2.2


@pytest.mark.parametrize("case", range(len(STORED)))
def test_equals_stored_answers_of_seqeval(case):
    """KNOWN_BUGS 22: span F1, not token accuracy, by the rules that the field's papers are scored with."""
    stored = STORED[case]
    counts = span_f1.count(stored["reference"], stored["predicted"])
    whole = span_f1.total(counts)
    assert [whole.precision, whole.recall, whole.f1] == pytest.approx([stored[k] for k in ("precision", "recall", "f1")], abs=1e-9)
    assert span_f1.spans(stored["reference"][0]) == [tuple(s) for s in stored["spans"]]
    ours = {kind: [c.precision, c.recall, c.f1] for kind, c in counts.items()}
    assert ours.keys() >= stored["types"].keys()
    for kind, values in stored["types"].items():
        assert ours[kind] == pytest.approx(values, abs=1e-9)


def test_equals_seqeval_where_it_is_installed():
    if importlib.util.find_spec("seqeval") is None:
        return  # the stored answers above are the same comparison
    from seqeval.metrics.sequence_labeling import get_entities

    rng = random.Random(7)
    for _ in range(3000):
        tags = [p if p == "O" else f"{p}-{rng.choice('xy')}" for p in rng.choices("OOBIES", k=rng.randint(0, 9))]
        assert span_f1.spans(tags) == [tuple(s) for s in get_entities(tags)], tags


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("B-a I-a O B-b", [("a", 0, 1), ("b", 3, 3)]),
        ("B-a B-a", [("a", 0, 0), ("a", 1, 1)]),
        ("I-a I-b", [("a", 0, 0), ("b", 1, 1)]),
        ("O I-a I-a", [("a", 1, 2)]),
        ("B-a I-b", [("a", 0, 0), ("b", 1, 1)]),
        ("S-a B-a E-a O", [("a", 0, 0), ("a", 1, 2)]),
        ("B-a E-a E-a", [("a", 0, 1), ("a", 2, 2)]),
        ("B-a M-a E-a", [("a", 0, 2)]),
        ("B M E S", [("", 0, 2), ("", 3, 3)]),
        ("B-a-b I-a-b", [("a-b", 0, 1)]),
        ("", []),
    ],
)
def test_spans_by_hand(tags, expected):
    assert span_f1.spans(tags.split()) == expected


def test_scores_in_percent():
    found = span_f1.scores([["B-a", "I-a"], ["O", "B-b"]], [["B-a", "I-a"], ["B-b", "O"]])
    assert found == {"precision": 50.0, "recall": 50.0, "f1": 50.0, "tag_accuracy": 50.0, "sentence_accuracy": 50.0}


def test_nothing_to_find_and_nothing_found_is_zero_as_in_conlleval():
    assert span_f1.scores([["O"]], [["O"]])["f1"] == 0.0
    assert span_f1.scores([], [])["sentence_accuracy"] == 0.0


def test_sentences_of_other_lengths_are_refused():
    """KNOWN_BUGS 22: tags of one sentence written to another."""
    with pytest.raises(ValueError, match="sentence 1: expected 2 tags, got 1"):
        span_f1.count([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match="got 1 for 2"):
        span_f1.count([["O"], ["O"]], [["O"]])
