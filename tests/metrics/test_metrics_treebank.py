"""Words of English text equal nltk's on random strings, stored and, where it is installed, made anew; and the rules one by one."""

import importlib.metadata
import json
import pathlib
import random

import pytest

from decoder_lab.metrics import treebank

NLTK = next((found.version for found in importlib.metadata.distributions(name="nltk")), None)
# Random strings, two to nine of PIECES and alike joined without blanks, with what NLTKWordTokenizer of nltk 3.10.4 made of them.
STORED = json.loads((pathlib.Path(__file__).parent / "words.json").read_text())
PIECES = (
    "the |dog | |  |don't|it's|i'm|they'll|we've|he'd|you're|n't|'s|'ll|'ve|'|\"|''|``|\"x\"|'ab'|boys'|cannot|gonna|wanna|d'ye|more'n|"
    "'tis|u.s.|3.5|1,000|...|..|.|,|!|?|;|:|$5|%|&|#|*|(|)|[|]|--|—|‘|’|“|”|«|»|é|a|5"
).split("|")


def test_equals_stored_answers_of_nltk():
    assert len(STORED) == 120
    for text, expected in STORED:
        assert treebank.words(text) == expected, text


@pytest.mark.skipif(NLTK != "3.10.4", reason="nltk 3.10.4 is not installed; the stored answers above are the same comparison")
def test_equals_nltk_where_it_is_installed():
    from nltk.tokenize import NLTKWordTokenizer

    draw, reference = random.Random(5), NLTKWordTokenizer()
    for _ in range(3000):
        text = "".join(draw.choices(PIECES, k=draw.randint(1, 8)))
        assert treebank.words(text) == reference.tokenize(text), text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("i don't think it's theirs.", "i do n't think it 's theirs ."),
        ('he said "no" ("yes").', "he said `` no '' ( `` yes '' ) ."),
        ("the 'boys' cannot pay $1,000, or 3.5%", "the ' boys ' can not pay $ 1,000 , or 3.5 %"),
        ("u.s. of a... b", "u.s. of a ... b"),
        ("wanna.be wanna", "wanna.be wan na"),
        ("", ""),
    ],
)
def test_by_hand(text, expected):
    assert treebank.words(text) == expected.split()
