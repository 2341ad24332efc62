"""Tokenizers of the lab as a tokenizer.json that computes the same ids: bytes, and SentencePiece as the lab trains it.

Two differences remain. A text's own U+2581 becomes a space here, where the lab writes its three bytes; and strings such as `</s>` in a text
become the special id, as transformers always has it.
"""

import json
from collections.abc import Callable
from typing import Any

SPACE = "\u2581"
END = "<|endoftext|>"


def of(name: str, tokenizer: Any) -> dict | None:
    """Returns the content of tokenizer.json for a loaded tokenizer, by the name of its plug-in; None where there is no such form."""
    maker: Callable[[Any], Any] | None = {"byte": _bytes, "sentencepiece": _sentencepiece}.get(name)
    return None if maker is None else json.loads(maker(tokenizer).to_str())


def _bytes(tokenizer: Any) -> Any:
    """256 bytes by the alphabet of byte-level tokenizers, without a merge, and the end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(_alphabet())}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    made.add_special_tokens([END])
    return made


def _alphabet() -> list[str]:
    """Returns the character for each byte in byte-level tokenizers (GPT-2): itself where it can be seen, else one from 256 on."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(b) if b in seen else chr(next(others)) for b in range(256)]


def _sentencepiece(tokenizer: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    processor = tokenizer.processor
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    if tokenizer.model_type == "unigram":
        scored = [(piece, processor.get_score(i)) for i, piece in enumerate(pieces)]
        model = models.Unigram(scored, unk_id=0, byte_fallback=True)
    else:
        vocab = {piece: i for i, piece in enumerate(pieces)}
        ordinary = [i for i in range(len(pieces)) if not (processor.is_byte(i) or processor.is_control(i) or processor.is_unknown(i))]
        model = models.BPE(vocab=vocab, merges=_merges(processor, pieces, vocab, ordinary), unk_token=pieces[0], byte_fallback=True)
    made = Tokenizer(model)
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([pieces[0], pieces[tokenizer.eos_id]])
    return made


def _merges(processor: Any, pieces: list[str], vocab: dict[str, int], ordinary: list[int]) -> list[tuple[str, str]]:
    """Returns every pair of pieces that makes a piece, the best-scored piece first: SentencePiece merges any such neighbours."""
    known = {pieces[i] for i in ordinary}
    pairs = []
    for i in ordinary:
        piece = pieces[i]
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece)) if piece[:cut] in known and piece[cut:] in known]
        pairs += [(-processor.get_score(i), vocab[left], vocab[right], left, right) for left, right in halves]
    return [(left, right) for *_, left, right in sorted(pairs)]
