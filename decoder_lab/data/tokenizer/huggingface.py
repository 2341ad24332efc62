"""A tokenizer.json file of Hugging Face's `tokenizers` package, or a model's directory with one.

`encode` adds no special id, and special strings in a text stay text. What the file puts around a text is in `start_ids`, `middle_ids` and
`end_ids`, for whoever writes whole examples.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError, unknown
from decoder_lab.data import files, huggingface_files
from decoder_lab.data.chat import ChatTemplate

KNOWN_EOS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "[EOS]")
PROBES = (" a  b ", "\n\n\tx\r\n", "Ünï漢字 e\u0301 \U0001f600", "\u2581<0x41>", "a .b ,c n't")  # what normalisers and decoders change


@dataclasses.dataclass
class Tokenizer:
    """Text to ids and back, as the file says. Added tokens that the file does not call special keep their ids.

    Attributes:
      path: the tokenizer.json file, or a directory that has one (or vocab.txt, or vocab.json and merges.txt); of a directory also the
        names of special tokens and the chat template are known.
      eos: the string of the end-of-text token; empty: the one that the directory names, the first that the file has of the usual ones, or
        none.
      marks: whether texts get what the file puts around them, such as [CLS] and [SEP], or a beginning of text: the tasks and prompts that
        know of such ids then write them.
      num_ids: ids that the model's table has, where these are more than the file knows; 0: as many.
    """

    path: str = ""
    eos: str = ""
    marks: bool = False
    num_ids: int = 0

    learns = False

    def train(self, texts: Iterator[str]) -> bytes:
        """Returns the file's content, or the directory's: the artefact keeps a run whole when the file is gone."""
        if pathlib.Path(self.path).expanduser().is_dir():
            return huggingface_files.bundle(pathlib.Path(self.path).expanduser())
        return files.expand(self.path, "tokenizer huggingface: path")[0].read_bytes()

    def load(self, artefact: bytes) -> None:
        import tokenizers

        try:
            content, self._special, self._template = huggingface_files.parts(artefact)
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the package raises bare Exceptions
            raise UserError(f"tokenizer huggingface: {self.path} is not a tokenizer.json file: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # "treat special tokens as ordinary text", whatever the name suggests
        added = {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        if self.eos and self._tokenizer.token_to_id(self.eos) is None:
            raise UserError(unknown("tokenizer huggingface: eos", self.eos, added))
        name = self.eos or self._special.get("eos") or next((name for name in KNOWN_EOS if name in added), None)
        self._eos = self._tokenizer.token_to_id(name) if name else None
        model = content["model"]
        unknowns = (self._tokenizer.token_to_id(model.get("unk_token") or ""), model.get("unk_id"))  # an ordinary answer to odd text
        self._added = tuple(added)
        self._control = {i: name for name, i in added.items() if i not in unknowns}
        marks = " marks" if self.marks else ""
        self._fingerprint = f"huggingface 1 {self._eos}{marks} {hashlib.sha256(artefact).hexdigest()}"
        self._lossless = all(self.decode(self.encode(text)) == text for text in (*PROBES, *added))

    @property
    def vocab_size(self) -> int:
        known = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1  # ids may have gaps
        if 0 < self.num_ids < known:
            raise UserError(f"tokenizer huggingface: num_ids={self.num_ids}, but {self.path} has ids up to {known - 1}.")
        return self.num_ids or known

    @property
    def eos_id(self) -> int | None:
        return self._eos

    def special_ids(self) -> dict[str, int]:
        """Returns {"bos": id, "eos": id, "pad", "cls", "sep", "mask", "unk"}, those that the directory names."""
        found = {name: self._tokenizer.token_to_id(text) for name, text in self._special.items()}
        return {name: i for name, i in found.items() if i is not None}

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What the file puts before a text, with `marks`; else nothing."""
        return self._around[0]

    @property
    def middle_ids(self) -> tuple[int, ...]:
        """What it puts between the two texts of a pair."""
        return self._around[1]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What it puts after a text."""
        return self._around[2]

    @functools.cached_property
    def _around(self) -> tuple[tuple[int, ...], ...]:
        if not self.marks:
            return (), (), ()
        plain, one = (self._tokenizer.encode("a", add_special_tokens=add).ids for add in (False, True))
        at, size = _find(one, plain, 0), len(plain)
        two = self._tokenizer.encode("a", "a", add_special_tokens=True).ids
        again = _find(two, plain, at + size)
        return tuple(one[:at]), tuple(two[at + size : again]), tuple(one[at + size :])

    @functools.cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The template that the directory came with."""
        return ChatTemplate(self._template, self._special, self._added) if self._template else None

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, tools: Sequence[Any] | None = None, **more: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids int32 [T] of a conversation as the template writes it, bool [T]: what is the model's own part).

        Every special id is there exactly as often as the template wrote it. Errors: UserError without a template, see also `ChatTemplate`.
        """
        if self.chat_template is None:
            raise UserError(f"tokenizer huggingface: {self.path} came without a chat template.")
        text, spans = self.chat_template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools, **more)
        ids, offsets = self.encode_rendered(text)
        own = [any(start < end and start >= a and end <= b for a, b in spans) for start, end in offsets]
        return ids, np.asarray(own, bool)

    def encode_rendered(self, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Returns (ids int32 [T] of what a template wrote, where in it each lies in characters); special strings become special ids."""
        self._tokenizer.encode_special_tokens = False
        try:
            encoded = self._tokenizer.encode(text, add_special_tokens=False)
        finally:
            self._tokenizer.encode_special_tokens = True
        return np.asarray(encoded.ids, np.int32), encoded.offsets

    @property
    def control_ids(self) -> frozenset[int]:
        """Special ids, which no text of a user can hold."""
        return frozenset(self._control)

    @property
    def lossless(self) -> bool:
        """Whether texts that usually suffer came back unchanged; the file's normaliser and model decide."""
        return self._lossless

    def encode(self, text: str) -> np.ndarray:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        found = self._control.keys() & set(ids)
        if found:  # the model itself (WordPiece, Unigram) has the special string for a word: keep the string from standing in one piece
            names = [self._control[i] for i in found]
            pieces = re.split("|".join(f"(?<={re.escape(n[0])})(?={re.escape(n[1:])})" for n in names if len(n) > 1) or "$", text)
            ids = [i for piece in pieces for i in self._tokenizer.encode(piece, add_special_tokens=False).ids]
        if self._control.keys() & set(ids):
            raise UserError(f"tokenizer huggingface: the text holds {', '.join(names)}, which {self.path} can write as a special id only.")
        return np.asarray(ids, np.int32)

    def decode(self, ids) -> str:
        return self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True)

    def fingerprint(self) -> str:
        return self._fingerprint


def _find(ids: list[int], part: list[int], start: int) -> int:
    return next(i for i in range(start, len(ids) + 1) if ids[i : i + len(part)] == part)


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    return [] if kw["path"] else ["no file: set path to a tokenizer.json, or to a directory with one"]
