"""Samples begin somewhere whatever the tokenizer has: after eos, after a line break, or after token 0."""

import types

import numpy as np
import pytest

from decoder_lab.data.tokenizer.character import Tokenizer
from decoder_lab.evaluators import samples


@pytest.mark.parametrize("text, expected", [("ab\n", [0]), ("xab", [0]), ("\tab\n", [1])])
def test_an_empty_prompt_without_eos(text, expected):
    tokenizer = Tokenizer()
    tokenizer.load(tokenizer.train([text]))
    assert samples._beginning(tokenizer) == expected


def test_an_empty_prompt_with_eos():
    tokenizer = types.SimpleNamespace(eos_id=7, encode=lambda text: np.array([1]))
    assert samples._beginning(tokenizer) == [7]
