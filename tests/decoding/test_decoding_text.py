"""Text as it grows: no broken characters, no half stop strings."""

from hypothesis import given, settings
from hypothesis import strategies as st

from decoder_lab.data.tokenizer.word import Tokenizer
from decoder_lab.decoding.text import TextStream, continuation, decode_fn, find_stop


def decode(ids) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=12), st.lists(st.integers(1, 4), min_size=1, max_size=30), st.sampled_from([(), ("ab",), ("aab", "é")]))
def test_pieces_add_up_to_the_text_before_the_stop(text, sizes, stops):
    """Whatever the pieces, what is written is the text up to the first stop string, and never a replacement character."""
    text = "xa" + text + "é水aab🙂"
    ids, pieces = list(text.encode()), []
    stream = TextStream(decode, [65], pieces.append, stops)
    while ids:
        size = sizes.pop(0) if sizes else 3
        stream.add(ids[:size])
        assert "�" not in "".join(pieces)
        ids = ids[size:]
    stream.close()
    end = find_stop(text, stops)
    assert "".join(pieces) == (text if end < 0 else text[:end])


def test_close_writes_what_was_held_back():
    pieces = []
    stream = TextStream(decode, [], pieces.append, ("\n\nend",))
    stream.add([*b"x\n\nen", 0xE6])
    assert "".join(pieces) == "x\n\nen"  # the last byte may still become a character, and then "\n\nen" is no stop string
    stream.close()
    assert "".join(pieces) == "x\n\nen�"


def test_a_continuation_keeps_the_space_that_decoding_alone_would_lose():
    words = ["", " the", " cat"]
    assert continuation(lambda ids: "".join(words[i] for i in ids).lstrip(), [1], [2]) == " cat"


def test_a_target_behind_its_source_begins_without_a_space():
    """The decoder-only model of a prefix task reads source, end of text, target: two texts, and none goes on in the other."""
    tokenizer = Tokenizer()
    tokenizer.load(tokenizer.train(["a b c d"]))
    source, target = tokenizer.encode("a b").tolist(), tokenizer.encode("c d").tolist()
    decode = decode_fn(tokenizer)
    assert continuation(decode, [*source, tokenizer.eos_id], target) == "c d"
    assert continuation(decode, source, target) == " c d" and decode([tokenizer.eos_id, *target, tokenizer.vocab_size]) == "c d"
    assert decode([]) == decode([tokenizer.eos_id]) == ""


def test_a_prompt_that_ends_within_a_character():
    assert continuation(decode, list("水".encode())[:1], [*"水".encode()[1:], 65])[-1] == "A"


def test_earliest_stop_string_wins():
    assert find_stop("abcd", ["cd", "bc", "zz"]) == 1 and find_stop("abcd", []) == -1
