"""Exact match and F1 of extracted answers, by the rules of SQuAD 1.1, SQuAD 2.0 or CMRC 2018."""

import dataclasses
from typing import Any, Literal

from decoder_lab.core.errors import UserError
from decoder_lab.metrics import squad

SHOWN = 5  # questions that the report shows


@dataclasses.dataclass
class Evaluator:
    """Answers every question of a split; the windows of a long context are one question, whose answer is their best span.

    All numbers are percentages.

    Attributes:
      context: given by the lab.
      split: which part of the data.
      limit: questions that are used, evenly spread over the split; None is all of them.
      batch_size: windows at once; None is that of training.
      rules: "squad" (1.1), "squad2" (2.0, with numbers for questions with and without answer), "cmrc2018" (Chinese, by characters).
      no_answer_threshold: "" is answered where the log-probability of no answer, the least of all windows, is above that of the best span
        by more than this; None: there always is an answer.
      table: whether a text of some questions with their answers is written.
    """

    context: Any
    split: Literal["train", "validation", "test"] = "validation"
    limit: int | None = None
    batch_size: int | None = None
    rules: Literal["squad", "squad2", "cmrc2018"] = "squad"
    no_answer_threshold: float | None = None
    table: bool = True

    def run(self, state: Any) -> dict[str, Any]:
        """Returns {name: number}, and "report": a text."""
        task = self.context.task
        found = self.context.predictions(self.split, state, limit=self.limit, batch_size=self.batch_size)
        if not found or "context" not in found[0][0] or not hasattr(task, "join"):
            raise UserError("evaluator question_answering: the task answers no questions; use it with task question_answering.")
        pairs = [([answer["text"] for answer in raw["answers"]], self._answer(made)) for raw, made in found]
        scores = squad.scores(pairs, self.rules)
        return scores | ({"report": _report([raw for raw, _ in found], pairs)} if self.table else {})

    def _answer(self, made: dict) -> str:
        threshold = self.no_answer_threshold
        return "" if threshold is not None and made["no_answer"] - made["score"] > threshold else made["answer"]


def _report(items: list[dict], pairs: list[tuple[list[str], str]]) -> str:
    step = max(1, len(items) // SHOWN)
    chosen = range(0, len(items), step)[:SHOWN]
    return "\n".join(
        f"{items[i]['question']}\n  answered: {pairs[i][1]!r}  expected: {' | '.join(pairs[i][0]) or '(none)'}" for i in chosen
    )


def problems(kw) -> list[str]:
    """Questions are counted from 1, and only 2.0 has some without answer."""
    found = [f"{name}: got {kw[name]}, expected 1 or more." for name in ("limit", "batch_size") if kw[name] is not None and kw[name] < 1]
    if kw["no_answer_threshold"] is not None and kw["rules"] != "squad2":
        found.append(f'no_answer_threshold={kw["no_answer_threshold"]} needs rules="squad2", got "{kw["rules"]}", where all have one.')
    return found


def numbers(kw, task) -> list[str]:
    """Of all questions, and of those with and without an answer where there are both."""
    kinds = ("", "has_answer_", "no_answer_") if kw["rules"] == "squad2" else ("",)
    return [f"{kind}{score}" for kind in kinds for score in ("exact_match", "f1")]
