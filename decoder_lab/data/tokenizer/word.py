"""Whole words: id 0 is every word that the vocabulary lacks, id 1 the end of a text, then words by how often the training data has them.

Not lossless: white space becomes single spaces, rare words become unknown, and capitals may go.
"""

import collections
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator

import numpy as np

from decoder_lab.core.errors import UserError

UNKNOWN, EOS = 0, 1
UNKNOWN_WORD = "<unk>"
WHITESPACE = r"[^ \t\r\n\f\v]+"  # not Unicode's: a word that is given by itself stays one word


@dataclasses.dataclass
class Tokenizer:
    """Words to ids and back, with spaces between them.

    Attributes:
      pattern: regex of a word; empty: what stands between white space, so that a word by itself is one id. r"\\w+|[^\\w\\s]" takes marks
        apart, r"[\\u4e00-\\u9fff]|[^\\W\\u4e00-\\u9fff]+|[^\\w\\s]" Chinese characters too.
      lowercase: whether capitals are made small first.
      min_count: words that the training data has less often are unknown.
      max_size: most ids, the two special ones included; None: no limit.
    """

    pattern: str = ""
    lowercase: bool = False
    min_count: int = 1
    max_size: int | None = None

    learns = True
    lossless = False
    eos_id = EOS
    unknown_id = UNKNOWN

    def __post_init__(self):
        try:
            self._word = re.compile(self.pattern or WHITESPACE)
        except re.error as error:
            raise UserError(f'tokenizer word: pattern="{self.pattern}" is not a regex: {error}.') from error
        if self._word.groups:
            raise UserError(f'tokenizer word: pattern="{self.pattern}" has groups that capture; write (?:...) for (...).')

    @property
    def vocab_size(self) -> int:
        return len(self._words)

    def words(self, text: str) -> list[str]:
        """Returns the words of a text."""
        return self._word.findall(text.lower() if self.lowercase else text)

    def train(self, texts: Iterator[str]) -> bytes:
        """Returns the words by frequency, those of equal frequency in code point order."""
        counts: collections.Counter[str] = collections.Counter()
        for text in texts:
            counts.update(self.words(text))
        if not counts:
            raise UserError("tokenizer word: the training data holds no word.")
        kept = sorted((word for word, count in counts.items() if count >= self.min_count), key=lambda word: (-counts[word], word))
        room = len(kept) if self.max_size is None else self.max_size - 2
        if not kept[:room]:
            raise UserError(f"tokenizer word: no word of {len(counts):,} is left (min_count={self.min_count}, max_size={self.max_size}).")
        return json.dumps(kept[:room]).encode()

    def load(self, artefact: bytes) -> None:
        self._words = [UNKNOWN_WORD, "", *json.loads(artefact)]
        self._ids = {word: i for i, word in enumerate(self._words) if i > EOS}
        settings = (self.pattern, self.lowercase, self.min_count, self.max_size)
        self._fingerprint = f"word 1 {settings} {hashlib.sha256(artefact).hexdigest()}"

    def encode(self, text: str) -> np.ndarray:
        return np.asarray([self._ids.get(word, UNKNOWN) for word in self.words(text)], np.int32)

    def decode(self, ids) -> str:
        """The unknown word is written <unk>; the end of text becomes nothing."""
        return " ".join(self._words[i] for i in np.asarray(ids).tolist() if i != EOS)

    def fingerprint(self) -> str:
        return self._fingerprint


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    found = [] if kw["min_count"] > 0 else [f"min_count is {kw['min_count']}, expected more than 0"]
    if kw["max_size"] is not None and kw["max_size"] < 3:
        found.append(f"max_size is {kw['max_size']}, expected more than its 2 special ids")
    return found
