"""The config of a run that begins with a directory's weights: its model, its tokenizer, and the task that fits both."""

import json
import pathlib

from decoder_lab.core.errors import UserError
from decoder_lab.data import huggingface_files
from decoder_lab.interop.directory import Directory

LONGEST = 2048  # sequence_length of an imported run where positions go on; a longer one is a flag away
PIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
FILES = ("tokenizer.json", "vocab.txt", "merges.txt")


def config_of(directory: Directory, own_tokenizer: bool = False) -> dict:
    """Returns the config, what differs from the defaults. `own_tokenizer`: the user names another tokenizer."""
    ids = token_ids(directory)
    positions = directory.sizes.num_positions
    learned = any("num_positions" in part for part in _transformers(directory.plugin))
    config = dict(
        model=directory.plugin,
        task=directory.family.task({**directory.generation_config, **directory.config}, ids),
        sequence_length=positions if learned else min(positions, LONGEST),
        evaluators={},
    )
    config["checkpoint"] = dict(keep_best=0)
    batching = config["task"]["name"] not in ("language_modeling", "masked_language_modeling")
    data = {} if own_tokenizer else tokenizers(directory, ids)
    if batching:
        data["packing"] = dict(name="buckets", kw={})
    return {**config, **({"data": data} if data else {})}


def _transformers(plugin: dict) -> list[dict]:
    """Returns the kw of the model and of what is nested in it."""
    nested = [value for value in plugin["kw"].values() if isinstance(value, dict) and "kw" in value]
    return [plugin["kw"], *(kw for inner in nested for kw in _transformers(inner))]


def token_ids(directory: Directory) -> dict[str, int]:
    """Returns {"eos": id, ...}: what generation_config.json says, then the tokenizer's files, then config.json."""
    found = directory.token_ids()
    if any((directory.path / name).is_file() for name in FILES):
        tokenizer, special, _ = huggingface_files.parts(huggingface_files.bundle(directory.path))
        ids = {text: i for i, text in huggingface_files.strings(tokenizer).items()}
        found |= {name: ids[text] for name, text in special.items() if text in ids}
    eos = directory.generation_config.get("eos_token_id")
    if eos is not None:
        found["eos"] = eos[0] if isinstance(eos, list) else eos
    return found


def tokenizers(directory: Directory, ids: dict[str, int]) -> dict:
    """Returns `data.tokenizer` (and `data.source_tokenizer` where there are two). Errors: UserError where the directory has none."""
    path, rows = directory.path.absolute(), directory.sizes.vocab_size
    if (path / "source.spm").is_file() and (path / "target.spm").is_file():
        vocab = str(path / "vocab.json")
        known = len(json.loads(pathlib.Path(vocab).read_text()))
        kw = dict(vocab=vocab, eos="</s>", num_ids=rows if rows > known else 0)
        return {
            key: dict(name="sentencepiece_model", kw=dict(path=str(path / file), **kw))
            for key, file in (("tokenizer", "target.spm"), ("source_tokenizer", "source.spm"))
        }
    if any((path / name).is_file() for name in FILES):
        tokenizer, *_ = huggingface_files.parts(huggingface_files.bundle(path))
        names = huggingface_files.strings(tokenizer)
        known = max(names) + 1
        kw = dict(path=str(path), marks=True, eos=names.get(ids.get("eos"), ""), num_ids=rows if rows > known else 0)
        return {"tokenizer": dict(name="huggingface", kw=kw)}
    for name in PIECES:
        if (path / name).is_file():
            return {"tokenizer": dict(name="sentencepiece_model", kw=_pieces(path / name, directory, rows))}
    raise UserError(
        f"{directory.path} has no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece model). "
        "Put its files there, or name another by --config.data.tokenizer.name=... --config.data.tokenizer.kw..."
    )


def _pieces(model: pathlib.Path, directory: Directory, rows: int) -> dict:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    starts = directory.family.model_name(directory.config) == "decoder_only" and processor.bos_id() >= 0
    start = (processor.id_to_piece(processor.bos_id()),) if starts else ()
    more = rows if rows > processor.get_piece_size() else 0
    return dict(path=str(model), eos=processor.id_to_piece(processor.eos_id()), start=start, num_ids=more)
