"""A tokenizer.json file of Hugging Face's `tokenizers` package. No special id is added, and special strings in a text stay text."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator

import numpy as np

from decoder_lab.core.errors import UserError, unknown
from decoder_lab.data import files

KNOWN_EOS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", "[EOS]")
PROBES = (" a  b ", "\n\n\tx\r\n", "Ünï漢字 e\u0301 \U0001f600", "\u2581<0x41>", "a .b ,c n't")  # what normalisers and decoders change


@dataclasses.dataclass
class Tokenizer:
    """Text to ids and back, as the file says. Added tokens that the file does not call special keep their ids.

    Attributes:
      path: the tokenizer.json file.
      eos: the string of the end-of-text token; empty: the first that the file has of the usual ones, or none.
    """

    path: str = ""
    eos: str = ""

    learns = False

    def train(self, texts: Iterator[str]) -> bytes:
        """Returns the file's content: the artefact keeps a run whole when the file is gone."""
        return files.expand(self.path, "tokenizer huggingface: path")[0].read_bytes()

    def load(self, artefact: bytes) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(artefact.decode("utf-8"))
        except Exception as error:  # the package raises bare Exceptions
            raise UserError(f"tokenizer huggingface: {self.path} is not a tokenizer.json file: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # "treat special tokens as ordinary text", whatever the name suggests
        added = {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        if self.eos and self._tokenizer.token_to_id(self.eos) is None:
            raise UserError(unknown("tokenizer huggingface: eos", self.eos, added))
        name = self.eos or next((name for name in KNOWN_EOS if name in added), None)
        self._eos = self._tokenizer.token_to_id(name) if name else None
        model = json.loads(artefact)["model"]
        unknowns = (self._tokenizer.token_to_id(model.get("unk_token") or ""), model.get("unk_id"))  # an ordinary answer to odd text
        self._control = {i: name for name, i in added.items() if i not in unknowns}
        self._fingerprint = f"huggingface 1 {self._eos} {hashlib.sha256(artefact).hexdigest()}"
        self._lossless = all(self.decode(self.encode(text)) == text for text in (*PROBES, *added))

    @property
    def vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1  # ids may have gaps

    @property
    def eos_id(self) -> int | None:
        return self._eos

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


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    return [] if kw["path"] else ["no file: set path to a tokenizer.json"]
