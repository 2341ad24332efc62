"""Scores of written texts against references: BLEU and chrF by sacrebleu, ROUGE by rouge_score, exact match, token accuracy.

Hypotheses are a list of texts; references a list of as many, each one text or a list of texts that are equally good. BLEU, chrF and ROUGE
are in 0..100, the others in 0..1. An empty hypothesis scores nothing, unless the reference is empty too in exact match and token
accuracy. Texts are compared as they are: put words together and take sub-words back before (KNOWN_BUGS 23).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from decoder_lab.core.errors import UserError, unknown

TOKENIZE = ("13a", "intl", "zh", "char", "none")  # of sacrebleu's, those that need nothing more
ROUGE = ("rouge1", "rouge2", "rougeL")
PIECE = re.compile("[a-z0-9]+|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")

References = Sequence[str | Sequence[str]]


class Score(NamedTuple):
    """A score and what it takes to compare it with others' (sacrebleu's signature)."""

    value: float
    signature: str


def bleu(hypotheses: Sequence[str], references: References, tokenize: str = "13a", lowercase: bool = False) -> Score:
    """Returns corpus BLEU (Papineni et al. 2002; Post 2018).

    Args:
      tokenize: "13a" for text as it is written, "zh" for Chinese, "none" where texts are tokenised already, "char", "intl".
      lowercase: whether capitals count as small letters; with tokenize="none" this is the figure of many tutorials.
    Errors: UserError where sacrebleu is missing, `tokenize` is unknown, or there is nothing to score.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise _missing("bleu", "sacrebleu") from error
    if tokenize not in TOKENIZE:
        raise UserError(unknown("bleu: tokenize", tokenize, TOKENIZE))
    streams = _streams("bleu", hypotheses, references)
    metric = BLEU(tokenize=tokenize, lowercase=lowercase)
    return Score(float(metric.corpus_score(list(hypotheses), streams).score), str(metric.get_signature()))


def chrf(hypotheses: Sequence[str], references: References, word_order: int = 0, lowercase: bool = False) -> Score:
    """Returns corpus chrF (Popovic 2015); with word_order=2 chrF++. Errors: as of `bleu`."""
    try:
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise _missing("chrf", "sacrebleu") from error
    streams = _streams("chrf", hypotheses, references)
    metric = CHRF(word_order=word_order, lowercase=lowercase)
    return Score(float(metric.corpus_score(list(hypotheses), streams).score), str(metric.get_signature()))


def rouge(hypotheses: Sequence[str], references: References, stemmer: bool = True, characters: bool = False) -> dict[str, float]:
    """Returns the means of the F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), each the best over a text's references.

    Args:
      stemmer: whether English words are compared by their stems.
      characters: whether each Chinese, Japanese or Korean character is a word; otherwise rouge_score leaves them out.
    Errors: UserError where rouge_score is missing, or there is nothing to score.
    """
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise _missing("rouge", "rouge_score") from error
    listed = _listed("rouge", hypotheses, references)
    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=stemmer and not characters, tokenizer=_Characters() if characters else None)
    totals = dict.fromkeys(ROUGE, 0.0)
    for hypothesis, good in zip(hypotheses, listed, strict=True):
        scores = [scorer.score(reference, hypothesis) for reference in good]
        for name in ROUGE:
            totals[name] += max(float(score[name].fmeasure) for score in scores)
    return {name: 100 * total / len(listed) for name, total in totals.items()}


def exact_match(hypotheses: Sequence[str], references: References) -> float:
    """Returns the share of texts that equal one of their references, white space at the ends apart."""
    listed = _listed("exact_match", hypotheses, references)
    right = [h.strip() in {r.strip() for r in good} for h, good in zip(hypotheses, listed, strict=True)]
    return sum(right) / len(right)


def token_accuracy(hypotheses: Sequence[str], references: References) -> float:
    """Returns the share of places at which both texts have the same word, of the longer one's words; 1.0 where all texts are empty.

    Of several references the one counts that shares most.
    """
    right, total = 0, 0
    for hypothesis, good in zip(hypotheses, _listed("token_accuracy", hypotheses, references), strict=True):
        words = hypothesis.split()
        counts = []
        for reference in good:
            wanted = reference.split()
            counts.append((sum(a == b for a, b in zip(words, wanted, strict=False)), max(len(words), len(wanted))))
        same, longest = max(counts, key=lambda c: (c[0] / c[1] if c[1] else 1.0, c[1]))
        right, total = right + same, total + longest
    return right / total if total else 1.0


class _Characters:
    """Words as rouge_score's `tokenizer` gives them, with each CJK character a word."""

    def tokenize(self, text: str) -> list[str]:
        return PIECE.findall(text.lower())


def _listed(name: str, hypotheses: Sequence[str], references: References) -> list[list[str]]:
    """Returns the references of each hypothesis as a list. Errors: UserError."""
    listed = [[r] if isinstance(r, str) else list(r) for r in references]
    if len(listed) != len(hypotheses):
        raise UserError(f"{name}: got {len(hypotheses)} texts and references for {len(listed)}; expected as many.")
    if not listed:
        raise UserError(f"{name}: there is nothing to score: no text.")
    if missing := [i for i, good in enumerate(listed) if not good]:
        raise UserError(f"{name}: text {missing[0]} has no reference.")
    return listed


def _streams(name: str, hypotheses: Sequence[str], references: References) -> list[list[str | None]]:
    """Returns sacrebleu's form: the first references of all texts, the second ones, ..., None where a text has no more.

    Empty references beside others, which sacrebleu would leave out, are left out here, so that equal texts give equal scores.
    """
    listed = [[r for r in good if r] or [""] for good in _listed(name, hypotheses, references)]
    return [[good[k] if k < len(good) else None for good in listed] for k in range(max(map(len, listed)))]


def _missing(name: str, package: str) -> UserError:
    return UserError(f"{name} needs the package {package}: pip install {package}")
