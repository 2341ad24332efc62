import builtins
import math
import random

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.metrics import text

WORDS = "the a cat dog sat on mat . , It".split()


def random_texts(seed, count=30, references=1):
    draw = random.Random(seed)

    def sentence():
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 12)))

    goods = [[sentence() for _ in range(references)] for _ in range(count)]
    return [good[0] if draw.random() < 0.3 else sentence() for good in goods], goods


def plain_bleu(hypotheses, references):
    """Corpus BLEU of tokenised texts after Papineni et al. 2002, without smoothing."""
    same, total, lengths = [0] * 4, [0] * 4, [0, 0]
    for hypothesis, good in zip(hypotheses, references, strict=True):
        words, goods = hypothesis.split(), [g.split() for g in good]
        lengths[0] += len(words)
        lengths[1] += len(min(goods, key=lambda g: (abs(len(g) - len(words)), len(g))))
        for n in range(1, 5):

            def grams(sequence, n=n):
                return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]

            mine = grams(words)
            total[n - 1] += len(mine)
            same[n - 1] += sum(min(mine.count(g), max(grams(good).count(g) for good in goods)) for g in set(mine))
    brevity = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    return 100 * brevity * math.exp(sum(math.log(s / t) for s, t in zip(same, total, strict=True)) / 4)


@pytest.mark.parametrize("references", [1, 3])
def test_bleu_is_the_papers(references):
    """KNOWN_BUGS 23."""
    hypotheses, goods = random_texts(0, references=references)
    score = text.bleu(hypotheses, goods, tokenize="none")
    assert score.value == pytest.approx(plain_bleu(hypotheses, goods), rel=1e-9)
    assert f"nrefs:{references}" in score.signature and "tok:none" in score.signature and "case:mixed" in score.signature


def test_bleu_is_not_the_mean_of_sentences_and_knows_its_settings():
    """KNOWN_BUGS 23."""
    hypotheses, goods = random_texts(1)
    means = sum(text.bleu([h], [g]).value for h, g in zip(hypotheses, goods, strict=True)) / len(goods)
    assert abs(text.bleu(hypotheses, goods).value - means) > 0.5
    upper = [h.upper() for h in hypotheses]
    assert text.bleu(upper, goods, lowercase=True).value == pytest.approx(text.bleu(hypotheses, goods, lowercase=True).value)
    assert text.bleu(upper, goods).value < 5
    chinese = (["我 爱自然语言处理"], ["我爱自然语言处理"])
    assert text.bleu(*chinese, tokenize="zh").value == pytest.approx(100) and text.bleu(*chinese).value < 50
    with pytest.raises(UserError, match='"13b" is not known. Did you mean "13a"'):
        text.bleu(["a"], ["a"], tokenize="13b")


def test_references_of_differing_number():
    hypotheses, goods = random_texts(2, references=3)
    ragged = [good[: 1 + i % 3] for i, good in enumerate(goods)]
    score = text.bleu(hypotheses, ragged, tokenize="none")
    assert score.value == pytest.approx(plain_bleu(hypotheses, ragged), rel=1e-9) and "nrefs:var" in score.signature
    repeated = [(good * 3)[:3] for good in ragged]
    assert text.chrf(hypotheses, ragged).value == pytest.approx(text.chrf(hypotheses, repeated).value)


def test_chrf():
    hypotheses, goods = random_texts(3)
    assert text.chrf([g[0] for g in goods], goods).value == pytest.approx(100)
    plain, plus = text.chrf(hypotheses, goods), text.chrf(hypotheses, goods, word_order=2)
    assert 0 < plain.value < 100 and plain.value != plus.value and "nw:2" in plus.signature


def longest_common(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_rouge_is_the_papers_and_takes_the_best_reference():
    hypotheses, goods = random_texts(4, references=2)
    clean = [
        [" ".join(w.lower() for w in t.split() if w.isalpha()) or "x" for t in (h, *g)] for h, g in zip(hypotheses, goods, strict=True)
    ]
    hypotheses, goods = [c[0] for c in clean], [c[1:] for c in clean]
    best = []
    for h, good in zip(hypotheses, goods, strict=True):
        best.append(max(2 * longest_common(h.split(), g.split()) / (len(h.split()) + len(g.split())) for g in good))
    scores = text.rouge(hypotheses, goods, stemmer=False)
    assert scores["rougeL"] == pytest.approx(100 * sum(best) / len(best)) and set(scores) == {"rouge1", "rouge2", "rougeL"}
    assert scores["rouge1"] >= scores["rougeL"] >= scores["rouge2"]
    assert text.rouge(["running dogs"], ["run dog"])["rouge1"] == pytest.approx(100) != text.rouge(["running dogs"], ["run dog"], False)
    assert text.rouge(["我爱你"], ["我爱他"])["rouge1"] == 0
    assert text.rouge(["我爱你"], ["我爱他"], characters=True)["rouge1"] == pytest.approx(200 / 3)


def test_exact_match_and_token_accuracy():
    assert text.exact_match(["a b ", "c", ""], ["a b", ["d", "c"], "x"]) == pytest.approx(2 / 3)
    assert text.token_accuracy(["a b c", "x"], ["a x c d", "x"]) == pytest.approx(3 / 5)
    assert text.token_accuracy(["a b"], [["x y", "a c"]]) == 0.5


def test_empty_texts_are_defined():
    """An empty text scores nothing, in whatever company; what is empty on both sides is right where things must be equal."""
    for score in (text.bleu, text.chrf):
        assert score(["", "a b c d"], ["a", "a b c d"]).value < 100
        for references in ([""], [["", ""]], ["a"]):
            assert score([""], references).value == 0
        assert score(["a b c d", ""], [["a b c d", "", "x"], ["", ""]]).value == pytest.approx(
            score(["a b c d", ""], [["a b c d", "x"], ""]).value
        )
    assert text.rouge([""], [""])["rouge1"] == text.rouge([""], ["a"])["rougeL"] == text.rouge(["a"], [""])["rouge2"] == 0
    assert (
        text.exact_match(["", ""], ["", "a"]) == 0.5
        and text.token_accuracy(["", ""], ["", "a"]) == 0
        and text.token_accuracy([""], [""]) == 1
    )


@pytest.mark.parametrize("score", [text.bleu, text.chrf, text.rouge, text.exact_match, text.token_accuracy])
def test_what_cannot_be_scored(score):
    with pytest.raises(UserError, match="nothing to score"):
        score([], [])
    with pytest.raises(UserError, match="got 1 texts and references for 2"):
        score(["a"], ["a", "b"])
    with pytest.raises(UserError, match="text 1 has no reference"):
        score(["a", "b"], ["a", []])


@pytest.mark.parametrize("score, package", [(text.bleu, "sacrebleu"), (text.chrf, "sacrebleu"), (text.rouge, "rouge_score")])
def test_missing_packages_say_how_to_get_them(score, package, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kw):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=f"pip install {package}"):
        score(["a"], ["a"])
