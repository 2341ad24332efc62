"""Scores of classifications: closed forms, and scikit-learn's numbers on random inputs where it is installed."""

import numpy as np
import pytest

from decoder_lab.metrics import classification as metrics


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


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_scikit_learn_on_random_inputs(seed):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, 7)
    gold, predicted = (rng.integers(0, labels, 40).tolist() for _ in range(2))
    predicted = [p if rng.random() < 0.5 else g for g, p in zip(gold, predicted, strict=True)]
    found = metrics.scores(gold, predicted)
    for average in ("macro", "micro", "weighted"):
        want = sklearn_metrics.precision_recall_fscore_support(gold, predicted, average=average, zero_division=0)
        got = [found[f"{name}_{average}"] for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(got, want[:3], atol=1e-12)
    np.testing.assert_array_equal(metrics.confusion_matrix(gold, predicted, range(labels)), sklearn_metrics.confusion_matrix(
        gold, predicted, labels=list(range(labels))
    ))  # fmt: skip
    assert metrics.matthews(gold, predicted) == pytest.approx(sklearn_metrics.matthews_corrcoef(gold, predicted))
    many = [rng.random((30, 4)) < 0.4 for _ in range(2)]
    sets = [[set(np.flatnonzero(row).tolist()) for row in rows] for rows in many]
    for average in ("macro", "micro", "weighted"):
        want = sklearn_metrics.f1_score(*many, average=average, zero_division=0)
        assert metrics.set_scores(*sets, labels=range(4))[f"f1_{average}"] == pytest.approx(want)
    stats = pytest.importorskip("scipy.stats")
    a, b = rng.integers(0, 6, 30).astype(float), rng.normal(size=30)
    assert metrics.pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0])
    assert metrics.spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0])


def test_the_report_names_labels_and_confusions():
    few = metrics.report(list("aab"), list("aba"), "ab")
    assert "0.500   0.500  0.500         2" in few and "1   1" in few and "rows are the truth" in few
    names = [f"label{i}" for i in range(30)]
    many = metrics.report(names, names[1:] + names[:1], names)
    assert "label3 -> label4" in many and many.count("->") == 21  # the heading, and the most frequent 20
