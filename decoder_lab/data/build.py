"""Source, tokenizer, task and packing put together, as a config says: the one place that knows all of them."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError, unknown
from decoder_lab.data import cache, counter
from decoder_lab.data.rows import MixedRows, PackedRows

SETTINGS = "settings.json"
ARTEFACT = "artefact.bin"
NEIGHBOURS = 64  # documents that are read together for a tokenizer's sample: packed files are unpacked once for so many


def tokenizer_for(data: Any, directory: pathlib.Path | None = None, progress: Callable[[str], None] = cache.silent) -> Any:
    """Returns the tokenizer of a config, ready for use.

    Args:
      data: has `tokenizer` and `source`, each with `name` and `kw`.
      directory: a run's own copy: loaded from there where it is, else stored there, so that the run needs neither cache nor data later.
      progress: takes one line for the user.
    Errors: UserError where the copy in `directory` was made by other settings; whatever training on the source raises.
    """
    name, kw = _plugin(data.tokenizer)
    tokenizer = lookup.find("tokenizer", name)(**kw)
    artefact = _stored(directory, name, kw) if directory else None
    if artefact is None:
        artefact = _trained(data, tokenizer, name, kw, progress)
        if directory:
            _store(directory, name, kw, artefact)
    tokenizer.load(artefact)
    return tokenizer


def rows_for(data: Any, task: Any, split: str, length: int, progress: Callable[[str], None] = cache.silent) -> PackedRows | MixedRows:
    """Returns the rows of `length` tokens of one split, tokenised where the cache does not hold it yet.

    Args:
      data: has `source` and `packing`, each with `name` and `kw`.
      task: its `example(raw)["tokens"]` are a document's tokens; its tokenizer's end of text, where it has one, follows each document.
    Returns: rows(epoch, seed) and take(rows_B, epoch, seed) as a packing has them; num_bytes (UTF-8 of the split's text), num_tokens,
      num_documents, num_targets (labels in one evaluation pass).
    """
    name, kw = _plugin(data.source)
    rows = _rows(lookup.find("source", name)(split=split, **kw), name, data.packing, task, length, progress)
    empty = rows.share_without_target()
    progress(
        f"{split}: {rows.num_documents:,} documents, {rows.num_bytes / 1e6:,.1f} MB of text, {rows.num_tokens:,} tokens, "
        f"{rows.rows(None, 0):,} rows of {length}, {empty:.1%} of them without anything to predict"
    )
    return rows


def _rows(source: Any, label: str, packing: Any, task: Any, length: int, progress: Callable[[str], None]) -> PackedRows | MixedRows:
    parts = getattr(source, "sources", None)
    if parts is not None:  # weights are kept over rows, so each part is packed by itself
        rows = {name: _rows(part, f"{label}/{name}", packing, task, length, progress) for name, part in parts.items()}
        return MixedRows(rows, source.weights)
    tokenizer, name_kw = task.tokenizer, _plugin(packing)
    fingerprints = dict(source=source.fingerprint(), task=task.fingerprint(), tokenizer=tokenizer.fingerprint(), eos=tokenizer.eos_id)
    tokens = cache.token_cache(
        fingerprints,
        documents=lambda: _tokenised(source, task),
        num_documents=lambda: len(source),
        vocab_size=tokenizer.vocab_size,
        label=f"{label} {source.split}",
        progress=progress,
    )
    return PackedRows(lookup.find("packing", name_kw[0])(tokens=tokens, length=length, **name_kw[1]), tokens)


def _tokenised(source: Any, task: Any) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (tokens with the end of text, UTF-8 bytes of the raw text) of each document."""
    field = getattr(task, "text_field", "text")
    eos = [] if task.tokenizer.eos_id is None else [task.tokenizer.eos_id]
    for i in range(len(source)):
        raw = source[i]
        if field not in raw:
            raise UserError(unknown("task: text_field", field, raw))
        try:
            num_bytes = len(raw[field].encode("utf-8"))
        except UnicodeEncodeError as error:
            raise UserError(f"document {i} of the {source.split} split is not valid Unicode: {error.reason} at {error.start}.") from error
        yield np.append(task.example(raw)["tokens"], eos).astype(np.int32), num_bytes


def _trained(data: Any, tokenizer: Any, name: str, kw: dict, progress: Callable[[str], None]) -> bytes:
    """Trains on the train split, or takes the result of doing so from the cache."""
    if not getattr(tokenizer, "learns", True):
        return tokenizer.train(iter(()))
    source_name, source_kw = _plugin(data.source)
    source = lookup.find("source", source_name)(split="train", **source_kw)

    def write(path: pathlib.Path) -> dict:
        progress(f"training the {name} tokenizer on the train split of {source_name}")
        (path / ARTEFACT).write_bytes(tokenizer.train(_texts(source)))
        return {}

    path, _ = cache.entry("tokenizer", dict(name=name, kw=kw, source=source.fingerprint()), write, progress)
    return (path / ARTEFACT).read_bytes()


def _texts(source: Any) -> Iterator[str]:
    """Yields all texts, in runs of neighbours that are themselves in random order: whoever stops early has a fair sample."""
    total = len(source)
    for block in counter.permutation(-(-total // NEIGHBOURS), 0).tolist():
        for i in range(block * NEIGHBOURS, min((block + 1) * NEIGHBOURS, total)):
            yield source[i]["text"]


def _stored(directory: pathlib.Path, name: str, kw: dict) -> bytes | None:
    """Returns a run's own artefact, None where it has none."""
    if not (directory / SETTINGS).exists():
        return None
    settings = json.loads((directory / SETTINGS).read_text())
    artefact = (directory / ARTEFACT).read_bytes()
    if (settings["name"], settings["kw"]) != (name, kw):
        was, wanted = f"{settings['name']} {settings['kw']}", f"{name} {kw}"
        raise UserError(f"tokenizer: {directory} holds {was}, the config asks for {wanted}. Use another workdir, or the config as it was.")
    if hashlib.sha256(artefact).hexdigest() != settings["sha256"]:
        raise UserError(f"tokenizer: {directory / ARTEFACT} is damaged: it is not what was stored there. Use another workdir.")
    return artefact


def _store(directory: pathlib.Path, name: str, kw: dict, artefact: bytes) -> None:
    """Writes the settings last: a copy without them is not believed."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(dict(name=name, kw=kw, sha256=hashlib.sha256(artefact).hexdigest()), indent=1)
    for target, content in ((directory / ARTEFACT, artefact), (directory / SETTINGS, settings.encode())):
        temporary = target.with_name(f"{target.name}.{os.getpid()}")
        temporary.write_bytes(content)
        os.replace(temporary, target)


def _plugin(plugin: Any) -> tuple[str, dict]:
    """Returns (name, kw) with kw in JSON's types, so that it compares equal after being stored."""
    kw = plugin.kw.to_dict() if hasattr(plugin.kw, "to_dict") else dict(plugin.kw)
    return plugin.name, json.loads(json.dumps(kw))
