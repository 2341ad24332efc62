"""Precision, recall and F1 of the spans that tag sequences spell, by the rules of conlleval (CoNLL-2000), which seqeval follows too.

BIO, IOB1, BIOES (IOBES) and BMES are read by the same rules, also where a sequence breaks its scheme: a span begins at B or S, at I, M or E
after O, E, S or another type, and ends before the next beginning, before O, and after E or S. A span counts as found when type, first and
last word all agree.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple


class Counts(NamedTuple):
    """Spans that are in the reference, in the prediction, and in both."""

    reference: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """Share of the predicted spans that are right; 0 where nothing is predicted."""
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the reference's spans that are found; 0 where it has none."""
        return self.correct / self.reference if self.reference else 0.0

    @property
    def f1(self) -> float:
        """2 correct / (reference + predicted); 0 where neither has a span."""
        total = self.reference + self.predicted
        return 2 * self.correct / total if total else 0.0


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Returns (type, first word, last word) of each span of a sentence, in order."""
    found = []
    start, before, before_type = None, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        now, _, kind = tag.partition("-")
        now = "I" if now == "M" else now
        changes = kind != before_type
        if start is not None and (before in ("E", "S") or now in ("B", "S", "O") or changes):
            found.append((before_type, start, i - 1))
            start = None
        if now != "O" and start is None:
            start = i
        before, before_type = now, kind
    return found


def count(reference: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Counts]:
    """Returns {type: Counts} over all sentences, types in alphabetical order. Errors: ValueError where a sentence has other lengths."""
    if len(reference) != len(predicted):
        raise ValueError(f"expected one prediction a sentence, got {len(predicted)} for {len(reference)}")
    tallies = [collections.Counter() for _ in range(3)]
    for i, (gold, ours) in enumerate(zip(reference, predicted, strict=True)):
        if len(gold) != len(ours):
            raise ValueError(f"sentence {i}: expected {len(gold)} tags, got {len(ours)}")
        gold_spans, our_spans = set(spans(gold)), set(spans(ours))
        for tally, part in zip(tallies, (gold_spans, our_spans, gold_spans & our_spans), strict=True):
            tally.update(kind for kind, _, _ in part)
    return {kind: Counts(*(tally[kind] for tally in tallies)) for kind in sorted(set().union(*tallies))}


def total(counts: dict[str, Counts]) -> Counts:
    """Adds up the types: what precision, recall and F1 of a whole set are computed from (micro average)."""
    return Counts(*(sum(c[i] for c in counts.values()) for i in range(3)))


def scores(reference: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns precision, recall and f1 of all spans, in percent, and the shares of right tags and of wholly right sentences."""
    whole = total(count(reference, predicted))
    pairs = list(zip(reference, predicted, strict=True))
    words = sum(len(gold) for gold, _ in pairs)
    right = sum(a == b for gold, ours in pairs for a, b in zip(gold, ours, strict=True))
    return {
        "precision": 100 * whole.precision,
        "recall": 100 * whole.recall,
        "f1": 100 * whole.f1,
        "tag_accuracy": 100 * right / words if words else 0.0,
        "sentence_accuracy": 100 * sum(list(gold) == list(ours) for gold, ours in pairs) / len(pairs) if pairs else 0.0,
    }
