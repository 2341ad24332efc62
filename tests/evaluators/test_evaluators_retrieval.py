"""Retrieval over a whole split: both directions, equal texts as one answer."""

import types

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.evaluators.retrieval import Evaluator


def run(sources, targets, source_vectors, target_vectors, **kw):
    pairs = [
        (dict(source=s, target=t), dict(source=a, target=b))
        for s, t, a, b in zip(sources, targets, source_vectors, target_vectors, strict=True)
    ]
    context = types.SimpleNamespace(predictions=lambda split, state, limit, batch_size: pairs)
    return Evaluator(context, **kw).run(None)


def test_perfect_vectors_find_everything_and_turned_ones_half():
    eye = np.eye(4).tolist()
    found = run("abcd", "wxyz", eye, eye, at=(1, 2))
    assert found == {**{p + k: 1.0 for p in ("", "back_") for k in ("recall@1", "recall@2", "mrr", "median_rank")}, "candidates": 4.0}
    swapped = run("abcd", "wxyz", eye, [eye[1], eye[0], eye[2], eye[3]])
    assert swapped["recall@1"] == 0.5
    assert swapped["mrr"] == pytest.approx((1 + 1 + 2 / 4) / 4)  # the two wrong ones tie with everything else, which counts against them


def test_equal_targets_are_one_answer_where_targets_are_searched():
    eye = np.eye(3)
    found = run("abc", "xxy", eye[[0, 1, 2]].tolist(), eye[[0, 0, 2]].tolist())
    assert found["recall@1"] == pytest.approx(2 / 3)  # the second source is like neither x
    found = run("abc", "xxy", eye[[0, 0, 2]].tolist(), eye[[0, 0, 2]].tolist())
    assert found["recall@1"] == 1 and found["back_recall@1"] == 1  # x has two right answers, a and b
    found = run("abc", "xxy", eye[[0, 1, 2]].tolist(), eye[[1, 1, 2]].tolist())
    assert found["back_recall@1"] == 1 and found["recall@1"] == pytest.approx(2 / 3)  # x finds b, and is asked twice


@pytest.mark.parametrize("made", [["B-x", "O"], {"label": "a"}])
def test_another_task_is_refused(made):
    context = types.SimpleNamespace(predictions=lambda split, state, limit, batch_size: [({"text": "a"}, made)])
    with pytest.raises(UserError, match="use it with task retrieval"):
        Evaluator(context).run(None)
