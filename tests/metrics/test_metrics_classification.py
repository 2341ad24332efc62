"""Scores of classifications: closed forms, and scikit-learn's numbers on random inputs, stored and, where it is installed, made anew."""

import importlib.util
import json
import pathlib
import random

import numpy as np
import pytest

from decoder_lab.metrics import classification as metrics

# `random_case` of the seeds 0 to 7 and what `answers_of_scikit_learn` gave for them by scikit-learn 1.9.1 and SciPy 1.17.1.
STORED = json.loads((pathlib.Path(__file__).parent / "sklearn.json").read_text())


def test_scores_of_a_small_case_by_hand():
    gold, predicted = list("aaabbc"), list("aabbac")
    assert metrics.confusion_matrix(gold, predicted, "abc").tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    found = metrics.scores(gold, predicted)
    assert metrics.accuracy(gold, predicted) == found["f1_micro"] == found["precision_micro"] == pytest.approx(4 / 6)
    f1 = {"a": 2 / 3, "b": 1 / 2, "c": 1.0}
    assert found["f1_macro"] == pytest.approx(sum(f1.values()) / 3)
    assert found["f1_weighted"] == pytest.approx((3 * f1["a"] + 2 * f1["b"] + f1["c"]) / 6)
    assert metrics.label_scores(gold, predicted, "abc")["b"] == (0.5, 0.5, 0.5, 2)
    # (right * total - sum of products of the margins) / root of (36 - 14) * (36 - 14)
    assert metrics.matthews(gold, predicted) == pytest.approx((4 * 6 - (9 + 4 + 1)) / 22)


def test_nothing_divided_by_nothing_is_zero():
    assert metrics.accuracy([], []) == metrics.matthews([], []) == metrics.pearson([], []) == 0
    assert metrics.scores([], [])["f1_macro"] == 0
    assert metrics.scores(["a", "a"], ["b", "b"])["f1_macro"] == 0
    assert metrics.matthews(["a", "b"], ["a", "a"]) == 0
    assert metrics.pearson([1, 1], [1, 2]) == metrics.spearman([2], [3]) == 0
    with pytest.raises(ValueError, match="got 1 and 2"):
        metrics.accuracy([1, 2], [1])


def test_correlations_by_hand():
    assert metrics.pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert metrics.pearson([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert metrics.spearman([1, 2, 3], [1, 100, 10**6]) == pytest.approx(1)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert metrics.spearman([1, 2, 2, 5], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert metrics.mean_squared_error([1, 2], [2, 4]) == 2.5


def test_sets_of_labels_by_hand():
    gold, predicted = [{"x", "y"}, {"y"}, set()], [{"x"}, {"y", "z"}, set()]
    found = metrics.set_scores(gold, predicted)
    assert found["precision_micro"] == pytest.approx(2 / 3) and found["recall_micro"] == pytest.approx(2 / 3)
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert metrics.accuracy(gold, predicted) == pytest.approx(1 / 3)


def random_case(seed):
    """Returns integers of 2 to 6 labels, truth and prediction; the same of sets of 4 labels as 0 and 1; and two columns of numbers."""
    draw = random.Random(seed)
    gold = [draw.randrange(2 + seed % 5) for _ in range(40)]
    predicted = [right if draw.random() < 0.5 else draw.randrange(2 + seed % 5) for right in gold]
    sets = [[[int(draw.random() < 0.4) for _ in range(4)] for _ in range(30)] for _ in range(2)]
    numbers = [float(draw.randrange(6)) for _ in range(30)], [draw.gauss(0, 1) for _ in range(30)]
    return gold, predicted, sets, numbers


def answers_of_scikit_learn(gold, predicted, sets, numbers):
    from scipy import stats
    from sklearn import metrics as reference

    averages, zero = ("macro", "micro", "weighted"), dict(zero_division=0)
    of_labels = {a: reference.precision_recall_fscore_support(gold, predicted, average=a, **zero)[:3] for a in averages}
    of_sets = {a: reference.precision_recall_fscore_support(*map(np.array, sets), average=a, **zero)[:3] for a in averages}
    return dict(
        labels={name: [float(x) for x in values] for name, values in of_labels.items()},
        sets={name: [float(x) for x in values] for name, values in of_sets.items()},
        accuracy=float(reference.accuracy_score(gold, predicted)),
        whole_sets=float(reference.accuracy_score(*map(np.array, sets))),
        confusion=reference.confusion_matrix(gold, predicted).tolist(),
        matthews=float(reference.matthews_corrcoef(gold, predicted)),
        mean_squared_error=float(reference.mean_squared_error(*numbers)),
        pearson=float(stats.pearsonr(*numbers)[0]),
        spearman=float(stats.spearmanr(*numbers)[0]),
    )


def same(case, answers):
    gold, predicted, many, numbers = case
    sets = [[set(np.flatnonzero(row).tolist()) for row in rows] for rows in many]
    found = dict(labels=metrics.scores(gold, predicted), sets=metrics.set_scores(*sets, labels=range(4)))
    for kind, by_average in found.items():
        for average, expected in answers[kind].items():
            assert [by_average[f"{name}_{average}"] for name in ("precision", "recall", "f1")] == pytest.approx(expected, abs=1e-12)
    assert metrics.accuracy(gold, predicted) == pytest.approx(answers["accuracy"])
    assert metrics.accuracy(*sets) == pytest.approx(answers["whole_sets"])
    assert metrics.confusion_matrix(gold, predicted, sorted({*gold, *predicted})).tolist() == answers["confusion"]
    assert metrics.matthews(gold, predicted) == pytest.approx(answers["matthews"])
    for name in ("mean_squared_error", "pearson", "spearman"):
        assert getattr(metrics, name)(*numbers) == pytest.approx(answers[name])


@pytest.mark.parametrize("stored", STORED, ids=range(len(STORED)))
def test_equal_to_stored_answers_of_scikit_learn(stored):
    same(stored["case"], stored["answers"])


def test_equal_to_scikit_learn_where_it_is_installed():
    if importlib.util.find_spec("sklearn") is None:
        return  # the stored answers above are the same comparison
    for seed in range(100, 108):
        case = random_case(seed)
        same(case, answers_of_scikit_learn(*case))


def test_the_report_names_labels_and_confusions():
    few = metrics.report(list("aab"), list("aba"), "ab")
    assert "0.500   0.500  0.500         2" in few and "1   1" in few and "rows are the truth" in few
    names = [f"label{i}" for i in range(30)]
    many = metrics.report(names, names[1:] + names[:1], names)
    assert "label3 -> label4" in many and many.count("->") == 21  # the heading, and the most frequent 20
