"""Scores of classifications and of predicted numbers, from plain Python or NumPy values; equal to scikit-learn's, with 0 for 0 / 0.

Precision of a label is the share of its predictions that are right, recall the share of its examples that are found, F1 their harmonic
mean. "macro" averages over labels, "weighted" over examples by their true label, "micro" pools all decisions.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np


def confusion_matrix(gold: Sequence[Any], predicted: Sequence[Any], labels: Sequence[Any]) -> np.ndarray:
    """Returns int64 [C, C]: how many examples of label (row) were given which label (column)."""
    _check(gold, predicted)
    index = {label: i for i, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    for right, said in zip(gold, predicted, strict=True):
        matrix[index[right], index[said]] += 1
    return matrix


def accuracy(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Returns the share of examples whose prediction is right; of sets, that are right as a whole."""
    _check(gold, predicted)
    return sum(a == b for a, b in zip(gold, predicted, strict=True)) / len(gold) if len(gold) else 0.0


def scores(gold: Sequence[Any], predicted: Sequence[Any], labels: Sequence[Any] | None = None) -> dict[str, float]:
    """Returns {precision, recall, f1} x {macro, micro, weighted} as "f1_macro" and so on, of one label an example.

    labels: those averaged over; None: all that occur, in truth or prediction (as in scikit-learn). Where all that occur are among them the
    micro averages are the accuracy.
    """
    there = sorted({*gold, *predicted}, key=str)
    return set_scores([{x} for x in gold], [{x} for x in predicted], there if labels is None else labels)


def set_scores(
    gold: Sequence[Collection[Any]], predicted: Sequence[Collection[Any]], labels: Sequence[Any] | None = None
) -> dict[str, float]:
    """As `scores`, of any number of labels an example."""
    _check(gold, predicted)
    if labels is None:
        labels = sorted({x for row in (*gold, *predicted) for x in row}, key=str)
    right_C, said_C, there_C = _counts(gold, predicted, labels)
    per_label = _prf(right_C, said_C, there_C)
    pooled = _prf(right_C.sum(keepdims=True), said_C.sum(keepdims=True), there_C.sum(keepdims=True))
    found = {}
    for name, values_C, micro in zip(("precision", "recall", "f1"), per_label, pooled, strict=True):
        found[f"{name}_macro"] = float(values_C.mean()) if len(values_C) else 0.0
        found[f"{name}_micro"] = float(micro[0])
        found[f"{name}_weighted"] = float(_ratio(np.sum(values_C * there_C), np.sum(there_C)))
    return found


def label_scores(gold: Sequence[Any], predicted: Sequence[Any], labels: Sequence[Any]) -> dict[Any, tuple[float, float, float, int]]:
    """Returns {label: (precision, recall, F1, examples)}, of one label an example."""
    _check(gold, predicted)
    right_C, said_C, there_C = _counts([{x} for x in gold], [{x} for x in predicted], labels)
    rows = zip(*_prf(right_C, said_C, there_C), there_C, strict=True)
    return {label: (float(p), float(r), float(f), int(n)) for label, (p, r, f, n) in zip(labels, rows, strict=True)}


def matthews(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """Returns Matthews' correlation coefficient for any number of labels (Gorodkin 2004); 0 where either side is constant."""
    matrix = confusion_matrix(gold, predicted, sorted({*gold, *predicted}, key=str)).astype(np.float64)
    total, right = matrix.sum(), np.trace(matrix)
    there_C, said_C = matrix.sum(axis=1), matrix.sum(axis=0)
    spread = (total**2 - np.sum(said_C**2)) * (total**2 - np.sum(there_C**2))
    return float(_ratio(right * total - np.sum(there_C * said_C), np.sqrt(spread)))


def mean_squared_error(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """Returns the mean of the squared differences."""
    _check(gold, predicted)
    return float(np.mean(np.square(np.subtract(gold, predicted, dtype=np.float64)))) if len(gold) else 0.0


def pearson(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """Returns the linear correlation; 0 where either side is constant."""
    _check(gold, predicted)
    a, b = (np.asarray(x, np.float64) for x in (gold, predicted))
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))


def spearman(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """Returns the linear correlation of the ranks; equal values share the mean of their ranks."""
    _check(gold, predicted)
    return pearson(_ranks(gold), _ranks(predicted))


def report(gold: Sequence[Any], predicted: Sequence[Any], labels: Sequence[Any], most: int = 20) -> str:
    """Returns a text: precision, recall, F1 and number of examples a label, then the confusions.

    Up to `most` labels the whole confusion matrix is shown (rows are the truth), beyond that the most frequent confusions.
    """
    width = max(5, *(len(str(label)) for label in labels))
    lines = [f"{'label':<{width}}  precision  recall     F1  examples"]
    for label, (p, r, f, n) in label_scores(gold, predicted, labels).items():
        lines.append(f"{label!s:<{width}}  {p:9.3f}  {r:6.3f}  {f:5.3f}  {n:8d}")
    matrix = confusion_matrix(gold, predicted, labels)
    if len(labels) <= most:
        cell = max(4, len(str(matrix.max(initial=0))) + 1)
        lines += ["", "confusions, rows are the truth, columns the prediction in the same order:"]
        lines += [f"{label!s:<{width}}  " + "".join(f"{n:{cell}d}" for n in row) for label, row in zip(labels, matrix, strict=True)]
        return "\n".join(lines)
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    lines += ["", "most frequent confusions, truth -> prediction:"]
    return "\n".join(lines + [f"{wrong[i, j]:5d}  {labels[i]} -> {labels[j]}" for i, j in pairs])


def _counts(gold, predicted, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns int64 [C]: right decisions, predictions and examples of every label."""
    index = {label: i for i, label in enumerate(labels)}
    counts = np.zeros((3, len(labels)), np.int64)
    for right, said in zip(gold, predicted, strict=True):
        for row, found in enumerate((set(right) & set(said), set(said), set(right))):
            for label in found:
                if label in index:
                    counts[row, index[label]] += 1
    return counts[0], counts[1], counts[2]


def _prf(right_C, said_C, there_C) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _ratio(right_C, said_C), _ratio(right_C, there_C), _ratio(2 * right_C, said_C + there_C)


def _ratio(a, b) -> np.ndarray:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _check(gold, predicted) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"expected as many predictions as examples, got {len(predicted)} and {len(gold)}")
