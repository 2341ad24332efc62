"""Ids to text on the host: stop strings, and printing text as it grows without breaking characters or showing half a stop string."""

import itertools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

Decode = Callable[[list[int]], str]
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer's decode puts where bytes are no character, or not one yet


def decode_fn(tokenizer: Any) -> Decode:
    """Returns ids -> text of a tokenizer, without its end of text, and without ids that a task added above its vocabulary.

    What stands between two ends of text is a text of its own, decoded alone: words of one text do not get a space for the other's sake.
    """

    def decode(ids):
        texts = itertools.groupby((i for i in ids if i < tokenizer.vocab_size), key=lambda i: i == tokenizer.eos_id)
        return "".join(tokenizer.decode(list(text)) for is_end, text in texts if not is_end)

    return decode


def escaped(text: str) -> str:
    """Returns `text` with every control character but line breaks and tabs written out, such as \\x1b: a terminal obeys them."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text)


def piece(tokenizer: Any, token: int) -> str:
    """Returns one token in readable form: blanks as signs, what is no text by itself by its number."""
    if token == tokenizer.eos_id:
        return "⟨eos⟩"
    text = tokenizer.decode([token]) if token < tokenizer.vocab_size else ""
    if not text or REPLACEMENT in text:
        return f"⟨{token}⟩"
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def continuation(decode: Decode, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Returns the text that `tokens` add to `prompt`.

    Decoded together, as the first piece alone may lose its leading space; alone where the prompt ends within a character.
    """
    before, whole = decode(list(prompt)), decode([*prompt, *tokens])
    return whole[len(before) :] if whole.startswith(before) else decode(list(tokens))


def find_stop(text: str, stops: Sequence[str]) -> int:
    """Returns where the earliest of the stop strings begins in `text`, -1 if there is none."""
    return min((at for at in (text.find(stop) for stop in stops) if at >= 0), default=-1)


def num_printable(text: str, stops: Sequence[str]) -> int:
    """Returns how many characters of a growing `text` are settled: neither part of a character still to come nor of a stop string."""
    settled = len(text)
    while settled > max(len(text) - 3, 0) and text[settled - 1] == REPLACEMENT:  # a character is at most 3 bytes short
        settled -= 1
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                settled = min(settled, len(text) - size)
                break
    return settled


class TextStream:
    """Writes the text of one row while its tokens arrive; `close` writes what was held back."""

    def __init__(self, decode: Decode, prompt: Sequence[int], write: Callable[[str], object], stops: Sequence[str] = ()):
        self._decode, self._prompt, self._write, self._stops = decode, list(prompt), write, tuple(stops)
        self._tokens: list[int] = []
        self._written = 0

    def add(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens
        self._show(final=False)

    def close(self) -> None:
        self._show(final=True)

    def _show(self, final: bool) -> None:
        text = continuation(self._decode, self._prompt, self._tokens)
        at = find_stop(text, self._stops)
        end = at if at >= 0 else len(text) if final else num_printable(text, self._stops)
        if end > self._written:
            self._write(text[self._written : end])
            self._written = end
