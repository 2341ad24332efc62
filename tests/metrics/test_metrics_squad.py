"""Exact match and F1 of answers against what the official scripts say of random strings, and closed cases."""

import json
import pathlib

import pytest

from decoder_lab.metrics import squad

# Random strings with what the functions of the published scripts (evaluate-v1.1.py, evaluate-v2.0.py, cmrc2018_evaluate.py v6) returned for
# them. SQuAD's: English words, with apostrophes and accents. CMRC's: up to eight pieces, Chinese characters, its punctuation, numbers,
# contractions, quotation marks and dots, joined without blanks, and as answer the same, a part of it, it with more, or another; with nltk
# 3.10.4's NLTKWordTokenizer in the place of word_tokenize, whose splitter of sentences needs a download.
STORED = json.loads((pathlib.Path(__file__).parent / "answers.json").read_text())


@pytest.mark.parametrize("rules", ["squad", "squad2", "cmrc2018"])
def test_equals_stored_answers_of_the_official_rules(rules):
    cases = [c for c in STORED if rules in c]
    assert len(cases) >= 60
    assert rules != "cmrc2018" or sum(any(odd in case["answer"] for odd in ("'", '"', "...")) for case in cases) >= 60
    for case in cases:
        assert squad.score(case["references"], case["answer"], rules) == pytest.approx(case[rules], abs=1e-9), case


@pytest.mark.parametrize(
    "reference, answer, expected",
    [
        ("the 1936 Summer Olympics.", "1936 summer olympics", (1.0, 1.0)),
        ("Denver Broncos", "the Denver Broncos defeated", (0.0, 0.8)),
        ("cat cat dog", "cat", (0.0, 0.5)),
        ("x", "", (0.0, 0.0)),
    ],
)
def test_by_hand(reference, answer, expected):
    assert squad.score([reference], answer) == pytest.approx(expected)


def test_the_best_reference_counts_for_each_number_by_itself():
    assert squad.score(["x y z", "y"], "x y") == pytest.approx((0.0, 0.8))


def test_questions_without_answer():
    assert squad.score([], "", "squad2") == (1.0, 1.0)
    assert squad.score([], "x", "squad2") == (0.0, 0.0)
    assert squad.score(["x"], "", "squad2") == (0.0, 0.0)
    found = squad.scores([([], ""), (["x"], "y"), (["x"], "x")], "squad2")
    assert found == pytest.approx(
        {
            "exact_match": 200 / 3,
            "f1": 200 / 3,
            "has_answer_exact_match": 50,
            "has_answer_f1": 50,
            "no_answer_exact_match": 100,
            "no_answer_f1": 100,
        }
    )


def test_chinese_by_characters():
    assert squad.score(["光荣和ω-force"], "光荣", "cmrc2018") == pytest.approx((0.0, 4 / 6))
    assert squad.score(["《战国无双》"], "战国无双", "cmrc2018") == (1.0, 1.0)
    assert squad.score(["光荣"], "荣光", "cmrc2018")[1] == 0.5  # a common run, not a bag
    assert squad.score(['他说"don\'t"'], "don't说", "cmrc2018")[1] == pytest.approx(2 * 2 / (6 + 3))  # of 他 说 `` do n't ''


def test_nothing_at_all():
    assert squad.scores([]) == {"exact_match": 0.0, "f1": 0.0}
