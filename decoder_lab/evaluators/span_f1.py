"""Precision, recall and F1 of spans, over all and by type, as conlleval and seqeval count them; of a joint model also the intents."""

import dataclasses
from typing import Any, Literal

from decoder_lab.core.errors import UserError
from decoder_lab.metrics import classification
from decoder_lab.metrics import span_f1 as metrics


@dataclasses.dataclass
class Evaluator:
    """Tags a split and compares with the raw items, so words that do not fit into one row and tags that are new to the model count too.

    All numbers are percentages, as conlleval prints them: precision, recall, f1, tag_accuracy, sentence_accuracy (all tags of a sentence
    right; of a joint model the intent too, where the item has one) and intent_accuracy (of the items that have one).

    Attributes:
      context: given by the lab.
      split: which part of the data.
      limit: items that are used, evenly spread over the split; None is all of them.
      batch_size: examples at once; None is that of training.
      table: whether a text of the scores by type is written, and the detail "confusion" of single tags.
    """

    context: Any
    split: Literal["train", "validation", "test"] = "validation"
    limit: int | None = None
    batch_size: int | None = None
    table: bool = True

    def run(self, state: Any) -> dict[str, Any]:
        """Returns {name: number}, "report": a text, and "confusion": a detail."""
        task = self.context.task
        if not (hasattr(task, "tags") and hasattr(task, "join")):
            raise UserError("evaluator span_f1: the task gives no tags of words; use it with task tagging or intent_slots.")
        found = self.context.predictions(self.split, state, limit=self.limit, batch_size=self.batch_size)
        pairs = [(raw, made) for raw, made in found if raw.get("tags")]
        if not pairs:
            raise UserError(f"evaluator span_f1: no item of the {self.split} split has tags.")
        gold = [list(raw["tags"]) for raw, _ in pairs]
        joint = isinstance(pairs[0][1], dict)
        tags = [made["tags"] if joint else made for _, made in pairs]
        scores = metrics.scores(gold, tags)
        if joint:
            known = [raw.get("label") is not None for raw, _ in pairs]
            right = [raw["label"] == made["label"] if has else None for has, (raw, made) in zip(known, pairs, strict=True)]
            whole = [ok is not False and a == b for ok, a, b in zip(right, gold, tags, strict=True)]
            scores["sentence_accuracy"] = 100 * sum(whole) / len(whole)
            if any(known):
                scores["intent_accuracy"] = 100 * right.count(True) / sum(known)
        if not self.table:
            return scores
        pooled = [tag for row in gold for tag in row], [tag for row in tags for tag in row]
        names = sorted({*pooled[0], *pooled[1]})
        confusion = dict(kind="confusion", labels=names, matrix=classification.confusion_matrix(*pooled, names).tolist())
        return scores | {"report": report(metrics.count(gold, tags)), "confusion": confusion}


def report(counts: dict[str, metrics.Counts]) -> str:
    """Returns a table of the scores of each type, and of all, in percent."""
    rows = {**counts, "all": metrics.total(counts)}
    width = max(map(len, rows))
    lines = [f"{'type':{width}}  precision  recall      f1   spans"]
    lines += [
        f"{name:{width}}  {100 * c.precision:9.2f}  {100 * c.recall:6.2f}  {100 * c.f1:6.2f}  {c.reference:6,}" for name, c in rows.items()
    ]
    return "\n".join(lines)


def problems(kw) -> list[str]:
    """Items are counted from 1."""
    return [f"{name}: got {kw[name]}, expected 1 or more." for name in ("limit", "batch_size") if kw[name] is not None and kw[name] < 1]


def numbers(kw, task) -> list[str]:
    """Of tags; of a joint model also of intents."""
    return ["precision", "recall", "f1", "tag_accuracy", "sentence_accuracy", "intent_accuracy"]
