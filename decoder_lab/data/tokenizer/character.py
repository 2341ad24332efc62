"""One id a character (Unicode code point) of the training data, in code point order; special ids, where asked for, come after them."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Literal

import numpy as np

from decoder_lab.core.errors import UserError

SHOWN = 10  # characters listed in a message


@dataclasses.dataclass
class Tokenizer:
    """Characters to ids and back.

    Attributes:
      unknown: a character that the training data does not have is an error, or is replaced by one id more, which decodes to U+FFFD.
      eos: whether there is an end of text, the last id, which decodes to nothing; tasks that write texts of their own length need it.
    """

    unknown: Literal["error", "replace"] = "error"
    eos: bool = False

    learns = True

    @property
    def lossless(self) -> bool:
        return self.unknown == "error"

    @property
    def vocab_size(self) -> int:
        return len(self._characters) + (self.unknown == "replace") + self.eos

    @property
    def eos_id(self) -> int | None:
        return self.vocab_size - 1 if self.eos else None

    def train(self, texts: Iterator[str]) -> bytes:
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        if not characters:
            raise UserError("tokenizer character: the training data holds no character.")
        return "".join(sorted(characters)).encode("utf-8")

    def load(self, artefact: bytes) -> None:
        self._characters = artefact.decode("utf-8")
        points = _points(self._characters)
        self._ids = np.full(int(points.max()) + 2, -1, np.int32)  # the last entry stands for every code point beyond
        self._ids[points] = np.arange(len(points))
        self._fingerprint = f"character 2 {self.unknown} {self.eos} {hashlib.sha256(artefact).hexdigest()}"

    def encode(self, text: str) -> np.ndarray:
        ids = self._ids[np.minimum(_points(text), len(self._ids) - 1)]
        missing = ids < 0
        if not missing.any():
            return ids
        if self.unknown == "replace":
            return np.where(missing, np.int32(len(self._characters)), ids)
        names = sorted({text[i] for i in np.flatnonzero(missing)})
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        listed = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in names[:SHOWN]) + more
        raise UserError(
            f"tokenizer character: the training data has no {listed}. "
            "Use --config.data.tokenizer.kw.unknown=replace, more training data, or --config.data.tokenizer.name=byte."
        )

    def decode(self, ids) -> str:
        known, end = self._characters, self.eos_id
        return "".join(known[i] if i < len(known) else "\ufffd" for i in np.asarray(ids).tolist() if i != end)

    def fingerprint(self) -> str:
        return self._fingerprint


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
