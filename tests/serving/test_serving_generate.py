"""Generation at the terminal with a model that counts: after id i comes i + 1, and 0 ends the text."""

import io
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.serving.generate import Options, run


class Letters:
    """ids 1..26 are letters, 0 ends a text; 27 and 28 are the two bytes of é."""

    eos_id = 0
    pieces = {i: bytes([96 + i]) for i in range(1, 27)} | {27: b"\xc3", 28: b"\xa9"}

    def encode(self, text):
        return np.array([ord(c) - 96 for c in text], np.int32)

    def decode(self, ids):
        return b"".join(self.pieces[int(i)] for i in ids).decode("utf-8", "replace")  # id 0 is a KeyError: it must not come here


class Counting:
    max_length = 8

    def apply(self, variables, tokens_BT, *, positions_BT, segments_BT, cache):
        following_BT = (tokens_BT + 1) % 29
        return variables["params"]["sharpness"] * jax.nn.one_hot(following_BT, 29), cache

    def init_cache(self, batch_size, max_length):
        assert max_length <= 64
        return jnp.zeros((batch_size, 1))


PARAMS = {"sharpness": jnp.asarray(50.0)}


class Pieces(io.StringIO):
    """Counts how often text was shown."""

    flushes = 0

    def flush(self):
        self.flushes += 1


def written(**options) -> str:
    out = Pieces()
    run(Counting(), PARAMS, Letters(), Options(**options), out)
    return out.getvalue()


@pytest.mark.parametrize("stream", [True, False])
def test_text_goes_on_past_the_context_and_ends_at_eos(stream):
    assert written(prompt=("u",), num_tokens=40, temperature=0.0, stream=stream) == "uvwxyzé\n"
    assert written(prompt=("a",), num_tokens=12, stream=stream) == "abcdefghijklm\n"


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_is_not_written(stream):
    assert written(prompt=("ab",), num_tokens=20, stop=("hi", "xyz"), stream=stream) == "abcdefg\n"


def test_an_empty_prompt_begins_a_new_text_and_needs_an_end_of_text():
    assert written(prompt=("",), num_tokens=3) == "abc\n"
    tokenizer = Letters()
    tokenizer.eos_id = None
    with pytest.raises(UserError, match="prompt is empty"):
        run(Counting(), PARAMS, tokenizer, Options(), Pieces())


def test_a_stream_is_shown_while_it_grows():
    out = Pieces()
    run(Counting(), PARAMS, Letters(), Options(prompt=("a",), num_tokens=20), out)
    assert out.flushes > 4


def test_several_texts_are_named():
    """Two equal prompts and two samples: four texts under a line each, the prompts told apart."""
    lines = written(prompt=("a", "a"), num_tokens=2, num_samples=2).splitlines()
    assert lines[1::2] == ["abc"] * 4
    assert [line.split(":")[0] for line in lines[::2]] == [f"--- prompt {p}, text {s}" for p in (1, 2) for s in (1, 2)]
    assert "ended by length" in lines[0]


def test_beam_search_writes_its_best():
    assert written(prompt=("u",), num_tokens=40, beam_size=3, length_penalty=0.5) == "uvwxyzé\n"


def test_all_problems_at_once():
    bad = Options(
        prompt=(), num_tokens=0, temperature=-1, top_p=0, seed=-1, stop=("",), checkpoint="newest", context_length=1, length_penalty=1
    )
    assert len(bad.problems()) == 9
    with pytest.raises(UserError, match="(?s)top_p.*checkpoint"):
        run(None, None, None, bad)
    beam = Options(beam_size=2, top_k=5, temperature=0.7, stop=("x",), num_samples=3).problems()
    assert len(beam) == 3 and "temperature, top_k" in beam[0]
    assert not Options().problems() and not Options(beam_size=4, length_penalty=0.6, checkpoint="2000").problems()


def test_flags_can_be_made_without_jax():
    code = "import sys, decoder_lab.serving.generate as g; g.Options().problems(); print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
