import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer import word


def trained(*texts, **kw):
    tokenizer = word.Tokenizer(**kw)
    tokenizer.load(tokenizer.train(iter(texts)))
    return tokenizer


def test_ids_by_frequency_then_code_points():
    tokenizer = trained("b a c", "b\tc\n b d")
    assert tokenizer.encode("b c a d x").tolist() == [2, 3, 4, 5, tokenizer.unknown_id] and tokenizer.vocab_size == 6
    assert tokenizer.encode("").dtype == np.int32 and not tokenizer.lossless
    assert tokenizer.decode([2, 4, 0, tokenizer.eos_id, 3]) == "b a <unk> c"


@pytest.mark.parametrize("single", ["don't", "a\u00a0b", "\u3000", "<unk>", "x.y", "\u2028", "-LRB-"])
def test_a_word_by_itself_is_one_id(single):
    tokenizer = trained(f"a {single} b")
    assert len(tokenizer.encode(single)) == 1 and tokenizer.encode(single)[0] > tokenizer.eos_id
    assert len(trained("other").encode(single)) == 1
    assert tokenizer.decode(tokenizer.encode(f" {single}  b\n")) == f"{single} b"


def test_pattern_and_lower_case():
    tokenizer = trained("Don't STOP, now.", pattern=r"\w+|[^\w\s]", lowercase=True)
    assert tokenizer.decode(tokenizer.encode("don't stop , NOW")) == "don ' t stop , now"
    chinese = trained("我爱NLP。", pattern=r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]")
    assert chinese.words("我爱NLP。") == ["我", "爱", "NLP", "。"]


def test_rare_words_are_unknown():
    texts = ("a a a b b c",)
    assert trained(*texts, min_count=2).encode("a b c").tolist() == [2, 3, 0]
    assert trained(*texts, max_size=3).encode("a b c").tolist() == [2, 0, 0]
    with pytest.raises(UserError, match="no word of 3 is left"):
        trained(*texts, min_count=4)


def test_errors_and_fingerprints():
    with pytest.raises(UserError, match="no word"):
        trained(" \n")
    with pytest.raises(UserError, match="not a regex"):
        word.Tokenizer(pattern="(")
    with pytest.raises(UserError, match="groups that capture"):
        word.Tokenizer(pattern="(a)|b")
    assert len({t.fingerprint() for t in (trained("a b"), trained("a c"), trained("a b", lowercase=True), trained("a b", max_size=9))}) == 4
    complete = {name: field.default for name, field in lookup.fields("tokenizer", "word").items()}
    assert lookup.problems("tokenizer", "word", complete) == []
    assert len(lookup.problems("tokenizer", "word", {**complete, "min_count": 0, "max_size": 2})) == 2
