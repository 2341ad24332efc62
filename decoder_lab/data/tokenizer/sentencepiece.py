"""SentencePiece (Kudo and Richardson 2018), trained on the run's own training data, set up to give back every text exactly.

No normalisation, no space put in front, no space taken away, bytes for what the vocabulary lacks. SentencePiece writes a space as U+2581
inside its pieces and reads that character back as a space, so U+2581 itself is encoded here by its three bytes.
"""

import dataclasses
import hashlib
import io
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np

from decoder_lab.core.errors import UserError

SPACE = "\u2581"
EOS = 1  # 0 is SentencePiece's unknown, which bytes make superfluous
LINE = 2000  # characters a training example has at most
STRETCH = 1 << 16  # characters that are encoded at once; documents are cut after a line break, or here where there is none
SAMPLE_BYTES = dict(bpe=10_000_000, unigram=2_000_000)
THREADS = 4  # fixed: the sums of unigram training, and so its pieces, depend on the number


@dataclasses.dataclass
class Tokenizer:
    """Pieces of text to ids and back; id 1 is the end of text.

    Attributes:
      vocab_size: number of ids, 256 bytes and two special ones included.
      model_type: byte-pair merges, or a unigram language model, which takes fifteen times as long to train.
      sample_bytes: how much of the training data is learned from; None is 10 MB for bpe (3 s on one core) and 2 MB for unigram (7 s).
      character_coverage: share of the sample's characters that get pieces of their own; the rest is left to bytes.
    """

    vocab_size: int = 4096
    model_type: Literal["bpe", "unigram"] = "bpe"
    sample_bytes: int | None = None
    character_coverage: float = 0.9995

    learns = True
    lossless = True
    eos_id = EOS

    def train(self, texts: Iterator[str]) -> bytes:
        """Returns the trained model. Errors: UserError where the text is too little for the vocabulary."""
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=self._sample(texts),
                model_writer=model,
                vocab_size=self.vocab_size,
                model_type=self.model_type,
                character_coverage=self.character_coverage,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                allow_whitespace_only_pieces=True,
                split_digits=True,
                max_sentence_length=8 * LINE,
                unk_id=0,
                eos_id=EOS,
                bos_id=-1,
                pad_id=-1,
                num_threads=THREADS,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(f"tokenizer sentencepiece: {_reason(str(error), self.vocab_size)}") from error
        return model.getvalue()

    def _sample(self, texts: Iterator[str]) -> Iterator[str]:
        """Cuts documents into examples, up to the budget. A line break at an example's end would be dropped: cuts lie before breaks."""
        left = SAMPLE_BYTES[self.model_type] if self.sample_bytes is None else self.sample_bytes
        for text in texts:
            start = 0
            while start < len(text) and left > 0:
                end = start + LINE
                if end < len(text):
                    end = max(text.rfind("\n", start + 1, end), 0) or end
                piece = text[start:end].replace("\0", "")  # SentencePiece takes NUL for the end of its examples
                left -= len(piece.encode("utf-8"))
                start = end
                yield piece
            if left <= 0:
                return

    def load(self, artefact: bytes) -> None:
        import sentencepiece

        self._processor = processor = sentencepiece.SentencePieceProcessor(model_proto=artefact)
        self._bytes_V = [_piece_bytes(processor, i) for i in range(processor.get_piece_size())]
        self._space_ids = [processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE.encode()]
        settings = (self.vocab_size, self.model_type)
        self._fingerprint = f"sentencepiece 1 {settings} {hashlib.sha256(artefact).hexdigest()}"

    @property
    def processor(self):
        """SentencePiece's own object."""
        return self._processor

    def encode(self, text: str) -> np.ndarray:
        ids: list[int] = []
        for number, part in enumerate(text.split(SPACE)):
            ids += self._space_ids if number else []
            start = 0
            while start < len(part):
                end = start + STRETCH
                if end < len(part):
                    end = part.rfind("\n", start, end) + 1 or end
                ids += self._processor.encode(part[start:end])
                start = end
        return np.asarray(ids, np.int32)

    def decode(self, ids) -> str:
        """Bytes that are not UTF-8 (a model may write any) become U+FFFD; the end of text becomes nothing."""
        return b"".join(self._bytes_V[i] for i in np.asarray(ids).tolist()).decode("utf-8", "replace")

    def fingerprint(self) -> str:
        return self._fingerprint


def _reason(message: str, vocab_size: int) -> str:
    """Returns what to do about an error of SentencePiece's training."""
    flag = "--config.data.tokenizer.kw.vocab_size"
    if found := re.search(r"too high.*<= (\d+)", message):
        most = int(found[1])
        return (
            f"vocab_size={vocab_size} cannot be learned from so little text; the most is {most}: use {flag}={most}, or more training data."
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"vocab_size={vocab_size} has no room for the text's characters; the least is {found[1]}: use {flag}={found[1]} or more, "
            "or a smaller --config.data.tokenizer.kw.character_coverage."
        )
    if "sentences_.empty()" in message:
        return "the training data holds no text."
    return f"vocab_size={vocab_size} cannot be learned from this text: {message.strip().splitlines()[-1].split('] ')[-1]}"


def _piece_bytes(processor, i: int) -> bytes:
    """What an id stands for."""
    piece = processor.id_to_piece(i)
    if processor.is_byte(i):
        return bytes([int(piece[1:-1], 16)])
    if processor.is_control(i):
        return b""
    return "\ufffd".encode() if processor.is_unknown(i) else piece.replace(SPACE, " ").encode("utf-8")


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    found = [] if kw["vocab_size"] > 258 else [f"vocab_size is {kw['vocab_size']}, expected more than its 256 bytes and 2 special ids"]
    found += [] if 0 < kw["character_coverage"] <= 1 else [f"character_coverage is {kw['character_coverage']}, expected in (0, 1]"]
    return found + (
        [f"sample_bytes is {kw['sample_bytes']}, expected more than 0"]
        if kw["sample_bytes"] is not None and kw["sample_bytes"] <= 0
        else []
    )
