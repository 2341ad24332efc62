"""UTF-8 bytes: ids 0..255 are the bytes, 256 is the end of a text. Needs no training and encodes anything."""

import dataclasses
from collections.abc import Iterator

import numpy as np

EOS = 256


@dataclasses.dataclass
class Tokenizer:
    """Text to its UTF-8 bytes and back."""

    learns = False  # the vocabulary does not depend on the training data
    lossless = True
    vocab_size = EOS + 1
    eos_id = EOS

    def train(self, texts: Iterator[str]) -> bytes:
        return b""

    def load(self, artefact: bytes) -> None:
        """Nothing is learned, so there is nothing to load."""

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def decode(self, ids) -> str:
        """Bytes that are not UTF-8 (a model may write any) become U+FFFD; the end of text becomes nothing."""
        return bytes(i for i in np.asarray(ids).tolist() if i < EOS).decode("utf-8", "replace")

    def fingerprint(self) -> str:
        return "byte 1"
