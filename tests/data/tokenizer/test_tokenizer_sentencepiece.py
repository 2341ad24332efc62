import random

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer import sentencepiece

WORDS = "def return self for in range if not None True the a of and is print 漢字 naïve <s> x1 2024 ( ) : = + [ ] .".split()


def corpus(seed, documents=40):
    draw = random.Random(seed)
    for _ in range(documents):
        yield "".join(draw.choice(WORDS) + draw.choice([" ", " ", "\n", "\n    ", "  ", "\t"]) for _ in range(150))


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def trained(request):
    tokenizer = sentencepiece.Tokenizer(vocab_size=360, model_type=request.param)
    tokenizer.load(tokenizer.train(corpus(0)))
    return tokenizer


HARD = [
    "", " ", "  ", " a", "a ", "   a   b   ", "\t\ta", "\n", "\n\n\n  x", "\r\n", "\u2581", "a\u2581 \u2581b", "\0", "a\0b", "😀👩‍👧",
    "e\u0301 é",
    "<s></s><unk><0x41>", "\u2047", "\ufeff\u00a0\u3000x", "ﬁ Å ①", "\u2028\u2029\x85", "\ufffd\uffff\U0010ffff", "def  return\n    self",
]  # fmt: skip


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_come_back(trained, text):
    """KNOWN_BUGS 24: no prefix space, no normalisation, and special strings stay text."""
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert trained.eos_id not in ids and 0 not in ids


@hypothesis.given(st.text() | st.lists(st.sampled_from([*HARD, *WORDS])).map("".join))
@hypothesis.settings(max_examples=300, deadline=None)
def test_lossless(trained, text):
    """KNOWN_BUGS 24."""
    ids = trained.encode(text)
    assert ids.dtype == np.int32 and trained.decode(ids) == text
    assert not len(ids) or (ids.min() > trained.eos_id and ids.max() < trained.vocab_size)


def test_long_documents_are_cut_without_loss(trained, monkeypatch):
    monkeypatch.setattr(sentencepiece, "STRETCH", 50)
    for text in ("".join(corpus(1, 3)), "x" * 333, "漢" * 120, "\n" * 120):
        assert trained.decode(trained.encode(text)) == text


def test_learns_from_the_text(trained):
    text = "".join(corpus(2, 5))
    assert trained.vocab_size == 360 == len(trained._bytes_V)
    assert len(trained.encode(text)) < 0.6 * len(text.encode())


def test_any_ids_can_be_decoded_and_the_end_is_silent(trained):
    assert isinstance(trained.decode(np.random.default_rng(0).integers(0, 360, 1000)), str)
    ids = trained.encode("return")
    assert trained.decode([*ids, trained.eos_id]) == "return"


def test_training_is_repeatable_and_reads_no_more_than_its_sample():
    def endless():
        for number, text in enumerate(corpus(3, 10**9)):
            read.append(number)
            yield text

    models = []
    for _ in range(2):
        read = []
        models.append(sentencepiece.Tokenizer(vocab_size=360, sample_bytes=20_000).train(endless()))
        assert len(read) < 80
    assert models[0] == models[1]


def test_fingerprint_follows_the_learned_model(trained):
    other = sentencepiece.Tokenizer(vocab_size=350, model_type=trained.model_type)
    other.load(other.train(corpus(0)))
    assert other.fingerprint() != trained.fingerprint()


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_errors_of_training_name_a_size_that_works(model_type):
    texts = list(corpus(4, 2))

    def train(vocab_size):
        return sentencepiece.Tokenizer(vocab_size=vocab_size, model_type=model_type).train(iter(texts))

    for wrong in (4096, 259):
        with pytest.raises(UserError, match=f"vocab_size={wrong} .*use --config.data.tokenizer.kw.vocab_size=([0-9]+)") as caught:
            train(wrong)
        assert train(int(str(caught.value).split("kw.vocab_size=")[1].split(",")[0].split(" ")[0]))
    with pytest.raises(UserError, match="holds no text"):
        sentencepiece.Tokenizer(vocab_size=300, model_type=model_type).train(iter([]))


def test_problems_of_a_config():
    complete = {name: field.default for name, field in lookup.fields("tokenizer", "sentencepiece").items()}
    assert lookup.problems("tokenizer", "sentencepiece", complete) == []
    assert len(lookup.problems("tokenizer", "sentencepiece", dict(vocab_size=256, character_coverage=0.0, sample_bytes=0))) == 3
