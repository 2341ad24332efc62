"""Everything that is usually said of a classifier: precision, recall and F1, the confusion matrix; of scores, their correlations."""

import dataclasses
from typing import Any, Literal

from decoder_lab.core.errors import UserError
from decoder_lab.metrics import classification as metrics


@dataclasses.dataclass
class Evaluator:
    """Predicts a split and compares with the truth.

    "single": accuracy, f1_macro, f1_micro, f1_weighted and their precisions and recalls, mcc (Matthews). "multi": the same of sets of
    labels without mcc, accuracy being that of whole sets. "score": pearson, spearman, mse.

    Attributes:
      context: given by the lab.
      split: which part of the data.
      limit: examples that are used, evenly spread over the split; None is all of them.
      batch_size: examples at once; None is that of training.
      table: whether a text of scores by label and confusions is written, and the detail "confusion" ("single" only).
    """

    context: Any
    split: Literal["train", "validation", "test"] = "validation"
    limit: int | None = None
    batch_size: int | None = None
    table: bool = True

    def run(self, state: Any) -> dict[str, Any]:
        """Returns {name: number}, "report": a text, and "confusion": a detail."""
        task = self.context.task
        if not hasattr(task, "gold"):
            raise UserError("evaluator classification_report: the task has no labels of texts; use it with task classification.")
        pairs = self.context.predictions(self.split, state, limit=self.limit, batch_size=self.batch_size)
        gold, predicted = [task.gold(raw) for raw, _ in pairs], [p for _, p in pairs]
        if task.kind == "score":
            numbers = [float(x) for (x,) in gold], [p["score"] for p in predicted]
            return {
                "pearson": metrics.pearson(*numbers),
                "spearman": metrics.spearman(*numbers),
                "mse": metrics.mean_squared_error(*numbers),
            }
        if task.kind == "multi":
            sets = [frozenset(x) for x in gold], [frozenset(p["labels"]) for p in predicted]
            return {"accuracy": metrics.accuracy(*sets), **metrics.set_scores(*sets, task.labels)}
        labels = [x for (x,) in gold], [p["label"] for p in predicted]
        found = {"accuracy": metrics.accuracy(*labels), **metrics.scores(*labels), "mcc": metrics.matthews(*labels)}
        if not self.table:
            return found
        names = sorted({*task.labels, *labels[0]})
        matrix = metrics.confusion_matrix(*labels, names).tolist()
        confusion = dict(kind="confusion", labels=[str(name) for name in names], matrix=matrix)
        return found | {"report": metrics.report(*labels, names), "confusion": confusion}


def problems(kw) -> list[str]:
    """Examples are counted from 1."""
    return [f"{name}: got {kw[name]}, expected 1 or more." for name in ("limit", "batch_size") if kw[name] is not None and kw[name] < 1]


def numbers(kw, task) -> list[str]:
    """Of labels, or of scores."""
    kinds = [f"{score}_{kind}" for score in ("precision", "recall", "f1") for kind in ("macro", "micro", "weighted")]
    return ["accuracy", *kinds, "mcc", "pearson", "spearman", "mse"]
