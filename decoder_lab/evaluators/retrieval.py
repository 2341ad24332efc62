"""Where the right answer stands when every text of a split is a candidate."""

import dataclasses
from typing import Any, Literal

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.metrics import retrieval as metrics


@dataclasses.dataclass
class Evaluator:
    """Every source searches its own target among the targets of all examples that are used, and back.

    recall@k, mrr (mean reciprocal rank) and median_rank of source -> target; names that begin with "back_" are of target -> source. Equal
    texts are one, and each of their answers is right: the best placed counts. Ties count against the model. The numbers depend on how many
    candidates there are, which is "candidates".

    Attributes:
      context: given by the lab.
      split: which part of the data.
      limit: examples that are used, evenly spread over the split; None is all of them.
      batch_size: examples at once; None is that of training. It changes no number.
      at: the k of recall@k.
    """

    context: Any
    split: Literal["train", "validation", "test"] = "validation"
    limit: int | None = None
    batch_size: int | None = None
    at: tuple[int, ...] = (1, 5, 10)

    def run(self, state: Any) -> dict[str, float]:
        """Returns {name: number}."""
        pairs = self.context.predictions(self.split, state, limit=self.limit, batch_size=self.batch_size)
        if not all(isinstance(made, dict) and {"source", "target"} <= made.keys() for _, made in pairs):
            raise UserError("evaluator retrieval: the task makes no vectors of a source and a target; use it with task retrieval.")
        vectors = {side: np.array([vectors[side] for _, vectors in pairs], np.float32) for side in ("source", "target")}
        found = {}
        for prefix, query, answer in (("", "source", "target"), ("back_", "target", "source")):
            asked, answers = (_groups([raw[side] for raw, _ in pairs]) for side in (query, answer))
            ranks = metrics.ranks(vectors[query], vectors[answer], np.arange(len(pairs)), answers, asked)
            found |= {prefix + name: value for name, value in metrics.scores(ranks, self.at).items()}
        return found | {"candidates": float(len(pairs))}


def _groups(texts: list[str]) -> np.ndarray:
    """Returns int [R]: equal numbers for equal texts."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)


def problems(kw) -> list[str]:
    """Examples are counted from 1."""
    found = [f"{name}: got {kw[name]}, expected 1 or more." for name in ("limit", "batch_size") if kw[name] is not None and kw[name] < 1]
    return found + ([f"at: got {kw['at']}, expected places of 1 or more."] if not kw["at"] or min(kw["at"]) < 1 else [])


def numbers(kw, task) -> list[str]:
    """Of both directions."""
    scores = [*(f"recall@{k}" for k in kw["at"]), "mrr", "median_rank"]
    return [f"{way}{score}" for way in ("", "back_") for score in scores] + ["candidates"]
