"""A trained SentencePiece model from a file, as T5, Llama and Marian come with: spiece.model, tokenizer.model, source.spm and target.spm.

Not lossless: such models normalise text and put a space in front. Special strings in a text stay text.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import files


@dataclasses.dataclass
class Tokenizer:
    """Pieces to ids and back.

    Attributes:
      path: the model's file.
      vocab: a vocab.json {piece: id} with ids of its own (Marian, whose two models share one); empty: the model's own numbers.
      eos: the piece that ends a text.
      start: pieces that stand before every text, such as ("<s>",) for Llama.
      num_ids: ids that the model's table has, where these are more than the file knows (T5 has 32,128); 0: as many.
    """

    path: str = ""
    vocab: str = ""
    eos: str = "</s>"
    start: tuple[str, ...] = ()
    num_ids: int = 0

    learns = False
    lossless = False

    def train(self, texts: Iterator[str]) -> bytes:
        """Returns the files' contents: the artefact keeps a run whole when the files are gone."""
        model = files.expand(self.path, "tokenizer sentencepiece_model: path")[0].read_bytes()
        vocab = files.expand(self.vocab, "tokenizer sentencepiece_model: vocab")[0].read_bytes() if self.vocab else b""
        return len(model).to_bytes(8, "little") + model + vocab

    def load(self, artefact: bytes) -> None:
        import sentencepiece

        size = int.from_bytes(artefact[:8], "little")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=artefact[8 : 8 + size])
        except RuntimeError as error:
            raise UserError(f"tokenizer sentencepiece_model: {self.path} is no SentencePiece model: {error}") from error
        processor = self._processor
        own = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
        self._ids: dict[str, int] = json.loads(artefact[8 + size :]) if self.vocab else own
        self._pieces = {i: piece for piece, i in self._ids.items()}
        self._unknown = self._ids.get("<unk>", processor.unk_id())
        self._control = {self._ids[p] for p, i in own.items() if (processor.is_control(i) or p == self.eos) and p in self._ids}
        for piece in (self.eos, *self.start):
            if piece not in self._ids:
                raise UserError(f'tokenizer sentencepiece_model: {self.path} has no piece "{piece}".')
        self._fingerprint = f"sentencepiece_model 1 {self.eos} {self.start} {hashlib.sha256(artefact).hexdigest()}"

    @property
    def vocab_size(self) -> int:
        known = max(self._pieces) + 1
        if 0 < self.num_ids < known:
            raise UserError(f"tokenizer sentencepiece_model: num_ids={self.num_ids}, but {self.vocab or self.path} has {known}.")
        return self.num_ids or known

    @property
    def eos_id(self) -> int:
        return self._ids[self.eos]

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What stands before every text."""
        return tuple(self._ids[piece] for piece in self.start)

    @functools.cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Nothing: what ends a text is the task's business."""
        return ()

    def special_ids(self) -> dict[str, int]:
        """Returns {"bos": id, "eos": id, ...}, those that the model has under their usual names."""
        names = dict(bos="<s>", eos=self.eos, pad="<pad>", unk="<unk>")
        return {name: self._ids[piece] for name, piece in names.items() if piece in self._ids}

    def encode(self, text: str) -> np.ndarray:
        return np.asarray([self._ids.get(piece, self._unknown) for piece in self._processor.encode(text, out_type=str)], np.int32)

    def decode(self, ids) -> str:
        """Control pieces and ids that stand for nothing become nothing."""
        kept = [self._pieces[i] for i in np.asarray(ids).tolist() if i in self._pieces and i not in self._control]
        return self._processor.decode_pieces(kept)

    def fingerprint(self) -> str:
        return self._fingerprint


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    return [] if kw["path"] else ["no file: set path to a SentencePiece model"]
