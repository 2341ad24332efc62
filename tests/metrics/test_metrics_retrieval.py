"""Ranks: by a loop, with ties against the model, and equal answers as one."""

import numpy as np
import pytest

from decoder_lab.metrics import retrieval


def test_ranks_equal_a_loop(monkeypatch):
    rng = np.random.default_rng(0)
    queries, candidates = rng.integers(-2, 3, (20, 3)).astype(float), rng.integers(-2, 3, (15, 3)).astype(float)  # with many ties
    right = rng.integers(0, 15, 20)
    want = []
    for query, r in zip(queries, right, strict=True):
        products = candidates @ query
        want.append(1 + sum(products[i] >= products[r] for i in range(15) if i != r))
    np.testing.assert_array_equal(retrieval.ranks(queries, candidates, right), want)
    monkeypatch.setattr(retrieval, "BLOCK", 40)  # two queries at once
    np.testing.assert_array_equal(retrieval.ranks(queries, candidates, right), want)


def test_ties_count_against_the_model():
    """A model that gives every pair the same similarity finds nothing first."""
    ones = np.ones((4, 2))
    ranks = retrieval.ranks(ones, ones, range(4))
    assert ranks.tolist() == [4, 4, 4, 4]
    assert retrieval.scores(ranks, (1, 4)) == {"recall@1": 0.0, "recall@4": 1.0, "mrr": 0.25, "median_rank": 4.0}


def test_equal_answers_do_not_stand_in_each_others_way():
    vectors = np.eye(3)[[0, 0, 1]]
    assert retrieval.ranks(vectors, vectors, range(3)).tolist() == [2, 2, 1]
    assert retrieval.ranks(vectors, vectors, range(3), ["a", "a", "b"]).tolist() == [1, 1, 1]


def test_scores_by_hand_and_of_nothing():
    found = retrieval.scores([1, 2, 4, 10])
    assert found["recall@1"] == 0.25 and found["recall@5"] == 0.75 and found["recall@10"] == 1
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 10) / 4) and found["median_rank"] == 3
    assert retrieval.scores([])["mrr"] == 0
    with pytest.raises(ValueError, match="not finite"):
        retrieval.ranks([[np.nan]], [[1.0]], [0])
