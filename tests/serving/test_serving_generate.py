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

    eos_id, vocab_size = 0, 29
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


def test_a_stream_says_why_it_ended_apart_from_the_text():
    """And how to get more where the length did it; several texts say it in their own lines."""
    for options, expected in [(dict(num_tokens=3), "3 tokens, ended by length"), (dict(num_tokens=40, stop=("x",)), "ended by stop")]:
        out, news = Pieces(), io.StringIO()
        run(Counting(), PARAMS, Letters(), Options(prompt=("u",), temperature=0.0, **options), out, news=news)
        assert out.getvalue() == "uvwx\n"[: 5 if "stop" not in options else 3] + "\n" * ("stop" in options)
        assert expected in news.getvalue() and ("--num_tokens" in news.getvalue()) == ("length" in expected)


def test_a_terminal_is_not_handed_control_characters():
    """A model may write any byte: on a terminal an escape sequence is shown, in a file it is what it is."""

    class Terminal(Pieces):
        def isatty(self):
            return True

    class Wild(Letters):
        pieces = Letters.pieces | {3: b"\x1b", 4: b"\n", 5: b"\x9b"[:0] + "\x9b".encode()}

    for kind, expected in [(Terminal, "ab\\x1b\n\\x9bf\n"), (Pieces, "ab\x1b\n\x9bf\n")]:
        for stream in (True, False):
            out = kind()
            run(Counting(), PARAMS, Wild(), Options(prompt=("a",), num_tokens=5, temperature=0.0, stream=stream), out)
            assert out.getvalue() == expected


def test_a_prompt_that_is_not_utf8_is_an_error():
    """The command line hands wrong bytes over as surrogates."""
    typed = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert any("not UTF-8" in line and "caf" in line for line in Options(prompt=(typed,)).problems())
    assert not Options(prompt=("caf\u00e9 \U0001f600",)).problems()


class Echo:
    """Writes the letters of its source, one after the other, then eos."""

    max_length = 16

    def encode(self, source_BS, source_segments_BS):
        return {"source": source_BS * source_segments_BS}

    def apply(self, variables, *arguments, method=None, memory=None, **place):
        if method == "encode":
            return self.encode(**place)
        following_BT = jnp.take_along_axis(memory["source"], place["positions_BT"], axis=1)
        return variables["params"]["sharpness"] * jax.nn.one_hot(following_BT, 29), place["cache"]

    def init_cache(self, batch_size, max_length):
        return jnp.zeros((batch_size, 1))


class Pairs:
    def prompt(self, raw):
        source = np.append(Letters().encode(raw["source"]), 0)
        return {"tokens": [0], "inputs": {"source": source, "source_segments": np.ones_like(source)}}


@pytest.mark.parametrize("options", [dict(stream=True), dict(stream=False), dict(beam_size=2)], ids=["stream", "whole", "beam"])
def test_the_prompt_of_a_model_of_pairs_is_its_source(options):
    """Only the target is written; sources of several lengths may stand in one call."""
    greedy = {} if "beam_size" in options else dict(temperature=0.0)
    out = Pieces()
    run(Echo(), PARAMS, Letters(), Options(prompt=("hello",), num_tokens=12, **greedy, **options), out, task=Pairs())
    assert out.getvalue() == "hello\n"
    out = Pieces()
    run(Echo(), PARAMS, Letters(), Options(prompt=("hello", "cab"), num_tokens=12, **greedy, **options), out, task=Pairs())
    assert out.getvalue().splitlines()[1::2] == ["hello", "cab"]


def test_a_source_must_be_there_and_is_said_to_be_cut():
    class Short(Pairs):
        def prompt(self, raw):
            return super().prompt({"source": raw["source"][:3]})

        def extent(self, raw):
            return len(raw["source"]), max(0, len(raw["source"]) - 3)

    options = dict(num_tokens=12, temperature=0.0)
    for given in ({}, dict(prompt=("cab", " "))):
        with pytest.raises(UserError, match="--prompt: this model writes of a source"):
            run(Echo(), PARAMS, Letters(), Options(**given, **options), io.StringIO(), task=Short())
    for prompts, said in (
        (("hello",), "did not see: 2 of prompt 1\n"),
        (("cab", "hello"), "did not see: 2 of prompt 2\n"),
        (("cab",), "]\n"),
    ):
        news = io.StringIO()
        run(Echo(), PARAMS, Letters(), Options(prompt=prompts, **options), io.StringIO(), task=Short(), news=news)
        assert news.getvalue().endswith(said)


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
    assert len(Options(length_norm="gnmt", coverage_penalty=0.2, min_tokens=-1).problems()) == 2
    assert len(Options(beam_size=2, length_norm="gnmd", coverage_penalty=-1.0).problems()) == 2
    assert len(beam) == 3 and "temperature, top_k" in beam[0]
    assert not Options().problems() and not Options(beam_size=4, length_penalty=0.6, checkpoint="2000").problems()


def test_flags_can_be_made_without_jax():
    code = "import sys, decoder_lab.serving.generate as g; g.Options().problems(); print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
