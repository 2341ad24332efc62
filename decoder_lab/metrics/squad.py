"""Exact match and F1 of extracted answers, by the rules of the official scripts of SQuAD 1.1, SQuAD 2.0 and CMRC 2018.

SQuAD: lower case, no punctuation of ASCII, no articles, single spaces; F1 of the bags of words; the best of all reference answers. In 2.0 a
question without answer has the one answer "". CMRC 2018: lower case, some punctuation taken out; every Chinese character is a token, what
stands between them is split into words; F1 from the longest common run of tokens. The script splits words with nltk's word_tokenize;
`treebank` has its rules, but takes what stands between Chinese characters for one sentence: in an answer of several English sentences the
full stops inside stay with their words.
"""

import collections
import re
import string
from collections.abc import Callable, Sequence
from typing import Literal

from decoder_lab.metrics import treebank

Rules = Literal["squad", "squad2", "cmrc2018"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CMRC_PUNCTUATION = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"
_NO_CMRC_PUNCTUATION = str.maketrans("", "", _CMRC_PUNCTUATION)
_CHINESE = re.compile("([\u4e00-\u9fa5])")


def normalized(text: str) -> str:
    """Returns an answer as SQuAD's scripts compare it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(reference: str, answer: str) -> float:
    """Returns 1.0 where both are the same after `normalized`."""
    return float(normalized(reference) == normalized(answer))


def f1(reference: str, answer: str, version: Literal["1.1", "2.0"] = "1.1") -> float:
    """Returns the F1 of the bags of normalised words; where one has no words, 2.0 asks whether both have none and 1.1 gives 0."""
    gold, ours = normalized(reference).split(), normalized(answer).split()
    if version == "2.0" and not (gold and ours):
        return float(gold == ours)
    return _harmonic(sum((collections.Counter(gold) & collections.Counter(ours)).values()), len(gold), len(ours))


def cmrc_exact_match(reference: str, answer: str) -> float:
    """Returns 1.0 where both are the same in lower case and without CMRC's punctuation."""
    return float(reference.lower().strip().translate(_NO_CMRC_PUNCTUATION) == answer.lower().strip().translate(_NO_CMRC_PUNCTUATION))


def cmrc_f1(reference: str, answer: str) -> float:
    """Returns the F1 of the longest run of tokens that both share."""
    gold, ours = _cmrc_tokens(reference), _cmrc_tokens(answer)
    return _harmonic(_longest_common_run(gold, ours), len(gold), len(ours))


def _cmrc_tokens(text: str) -> list[str]:
    parts = _CHINESE.split(text.lower().strip().translate(_NO_CMRC_PUNCTUATION))  # every second one is a Chinese character
    return [token for i, part in enumerate(parts) for token in ([part] if i % 2 else treebank.words(part))]


def _harmonic(common: int, num_gold: int, num_ours: int) -> float:
    return 2 * common / (num_gold + num_ours) if common else 0.0


def _longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    longest = 0
    before = [0] * (len(second) + 1)  # before[j]: length of the common run that ends at the last token of `first` and at second[j - 1]
    for a in first:
        here = [0] * (len(second) + 1)
        for j, b in enumerate(second):
            if a == b:
                here[j + 1] = before[j] + 1
                longest = max(longest, here[j + 1])
        before = here
    return longest


_RULES: dict[str, tuple[Callable, Callable]] = {
    "squad": (exact_match, f1),
    "squad2": (exact_match, lambda reference, answer: f1(reference, answer, "2.0")),
    "cmrc2018": (cmrc_exact_match, cmrc_f1),
}


def score(references: Sequence[str], answer: str, rules: Rules = "squad") -> tuple[float, float]:
    """Returns (exact match, F1) of one answer, each against the reference that suits it best.

    Under "squad2" references that normalise to nothing do not count, and none left means that the question has no answer, for which "" is
    right. The others expect a reference; without one both are 0, unless the answer is "" too.
    """
    match, overlap = _RULES[rules]
    if rules == "squad2":
        references = [r for r in references if normalized(r)] or [""]
    if not references:
        return (float(not answer),) * 2
    return max(match(r, answer) for r in references), max(overlap(r, answer) for r in references)


def scores(pairs: Sequence[tuple[Sequence[str], str]], rules: Rules = "squad") -> dict[str, float]:
    """Returns exact_match and f1 in percent over (references, answer) of every question, and under "squad2" of either kind of question."""
    found = [(bool(references), *score(references, answer, rules)) for references, answer in pairs]
    parts = {"": found}
    if rules == "squad2":
        parts |= {"has_answer_": [x for x in found if x[0]], "no_answer_": [x for x in found if not x[0]]}
    means = {}
    for name, part in parts.items():
        if part or not name:
            means[f"{name}exact_match"] = 100 * sum(x[1] for x in part) / max(len(part), 1)
            means[f"{name}f1"] = 100 * sum(x[2] for x in part) / max(len(part), 1)
    return means
