"""Scores of a ranking: where the right candidate stands among all, by similarity.

Ties count against the ranking: candidates as similar as the right one stand before it, so that a model that gives every pair the same
similarity is the worst and not the best.
"""

from collections.abc import Sequence

import numpy as np

BLOCK = 1 << 22  # similarities held at once


def ranks(
    queries_QP: np.ndarray,
    candidates_RP: np.ndarray,
    right_Q: Sequence[int],
    groups_R: Sequence[int] | None = None,
    asked_R: Sequence[int] | None = None,
) -> np.ndarray:
    """Returns int64 [Q]: the place from 1 on of each query's right candidate by the inner product of their vectors, ties before it.

    Args:
      right_Q: number of each query's right candidate.
      groups_R: candidates of equal group are the same answer: the best placed of the right group counts, the others do not stand in its
        way.
      asked_R: where candidate r is the answer of query r: of queries of equal number, all answers are right for each.
    """
    queries_QP, candidates_RP = (np.asarray(x, np.float32) for x in (queries_QP, candidates_RP))
    if not np.isfinite(queries_QP).all() or not np.isfinite(candidates_RP).all():
        raise ValueError("a vector has a value that is not finite")
    right_Q = np.asarray(right_Q, np.int64)
    groups_R = np.arange(len(candidates_RP)) if groups_R is None else np.asarray(groups_R)
    number_R = np.unique(groups_R, return_inverse=True)[1]
    asked_R = None if asked_R is None or len(np.unique(asked_R)) == len(asked_R) else np.asarray(asked_R)
    found = []
    step = max(1, BLOCK // max(1, len(candidates_RP)))
    for start in range(0, len(queries_QP), step):
        similarity_QR = queries_QP[start : start + step] @ candidates_RP.T
        right = right_Q[start : start + step]
        if asked_R is None:
            same_QR = number_R[right][:, None] == number_R[None]
        else:
            same_QR = _reached(asked_R[right][:, None] == asked_R[None], number_R)
        best_Q = np.max(np.where(same_QR, similarity_QR, -np.inf), axis=1)
        found.append(1 + np.sum((similarity_QR >= best_Q[:, None]) & ~same_QR, axis=1))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _reached(of_query_QR: np.ndarray, number_R: np.ndarray) -> np.ndarray:
    """Returns which candidates are of the group, a number from 0 on, of any that is right."""
    right_QG = np.zeros((len(of_query_QR), number_R.max(initial=-1) + 1), bool)
    q, r = np.nonzero(of_query_QR)
    right_QG[q, number_R[r]] = True
    return right_QG[:, number_R]


def scores(ranks_Q: Sequence[int], at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Returns {recall@k: share of queries whose right candidate is among the first k, mrr: mean of 1 / rank, median_rank}."""
    ranks_Q = np.asarray(ranks_Q, np.float64)
    if not len(ranks_Q):
        return {f"recall@{k}": 0.0 for k in at} | {"mrr": 0.0, "median_rank": 0.0}
    found = {f"recall@{k}": float(np.mean(ranks_Q <= k)) for k in at}
    return found | {"mrr": float(np.mean(1 / ranks_Q)), "median_rank": float(np.median(ranks_Q))}
