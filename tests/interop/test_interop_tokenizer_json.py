"""Tokenizers of the lab, written as tokenizer.json, give the same ids and the same texts."""

import json
import pathlib
import textwrap

import pytest
from tokenizers import Tokenizer

from decoder_lab.core import lookup
from decoder_lab.interop import tokenizer_json

TEXTS = ["def f(x):\n    return x + 1  # ünï 漢字 \U0001f600", "  two  spaces, 1234 5\t\r\n\n", "", "a", " ", "zzz qqq </S>"]
CORPUS = pathlib.Path(textwrap.__file__).read_text().split("\n\n")


@pytest.mark.parametrize(
    "name, kw", [("byte", {}), ("sentencepiece", dict(model_type="bpe")), ("sentencepiece", dict(model_type="unigram"))]
)
def test_a_tokenizer_of_the_lab_is_the_same_as_tokenizer_json(name, kw):
    tokenizer = lookup.make("tokenizer", dict(name=name, kw=kw | (dict(vocab_size=500) if kw else {})))
    tokenizer.load(tokenizer.train(iter(CORPUS)))
    theirs = Tokenizer.from_str(json.dumps(tokenizer_json.of(name, tokenizer)))
    for text in [*TEXTS, *CORPUS[:3]]:
        ids = tokenizer.encode(text).tolist()
        assert theirs.encode(text).ids == ids, text
        assert theirs.decode(ids) == text
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert theirs.decode([*ids, tokenizer.eos_id]) == text and theirs.id_to_token(tokenizer.eos_id)


def test_words_and_characters_have_no_such_form():
    assert tokenizer_json.of("word", None) is None
