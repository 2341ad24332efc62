"""Source, tokenizer, task and packing put together, as a config says: the one place that knows all of them."""

import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np

from decoder_lab.core import lookup, units
from decoder_lab.core.errors import UserError, unknown
from decoder_lab.data import cache, counter
from decoder_lab.data import examples as example_lib
from decoder_lab.data.rows import ExampleRows, MixedRows, PackedRows

SETTINGS = "settings.json"
ARTEFACT = "artefact.bin"
FACTS = "task.json"
NEIGHBOURS = 64  # documents that are read together for a tokenizer's sample: packed files are unpacked once for so many


def source_for(data: Any, split: str) -> Any:
    """Returns the raw examples of one split: `len(source)`, `source[i]` a dict, `fingerprint()`."""
    return lookup.make("source", data.source, split=split)


def tokenizer_for(
    data: Any,
    directory: pathlib.Path | None = None,
    progress: Callable[[str], None] = cache.silent,
    task: Any = None,
    side: Literal["target", "source"] = "target",
    other: pathlib.Path | None = None,
) -> Any:
    """Returns a tokenizer of a config, ready for use.

    Args:
      data: has `tokenizer`, `source` and perhaps `source_tokenizer`, each with `name` and `kw`.
      directory: a run's own copy: loaded from there where it is, else stored there, so that the run needs neither cache nor data later.
      progress: takes one line for the user.
      task: the config's task, `name` and `kw`; its `texts(raw)` and `source_texts(raw)`, where it has them, are what is learned from.
      other: the copy of a run whose weights this one begins with; it is taken where it was made by the same settings.
      side: "source" is `data.source_tokenizer`, learned from the source texts; without one `data.tokenizer` learns from both.
    Errors: UserError where the copy in `directory` was made by other settings, or is missing
      beside checkpoints; whatever training on the source raises.
    """
    plugin = data.source_tokenizer if side == "source" else data.tokenizer
    name, kw = _plugin(plugin)
    tokenizer = lookup.make("tokenizer", plugin)
    artefact = _stored(directory, name, kw) if directory else None
    changes = getattr(tokenizer, "learns", True) or kw  # what learns nothing and reads no file is the same when it is made again
    if artefact is None and directory and changes and _has_checkpoints(directory.parent):
        raise UserError(f"{directory} is missing: the run's checkpoints are for the tokens of that tokenizer. Restore it.")
    if artefact is None:
        if other and (other / SETTINGS).exists() and _settings(other) == (name, kw):
            artefact = _stored(other, name, kw)
            progress(f"the tokenizer is that of {other.parent}")
        else:
            reader = _Reader(task, side, joint=getattr(data, "source_tokenizer", None) is None)
            if task is not None and getattr(data, "packing", None) is not None:
                suits(reader.task, data.packing.name)  # before time is spent
            artefact = _trained(data, tokenizer, name, kw, reader, progress)
        if directory:
            _store(directory, name, kw, artefact)
    tokenizer.load(artefact)
    return tokenizer


class _Reader:
    """What one tokenizer learns from in a raw example.

    A task is asked before its tokenizers exist, so it is made of the user's fields alone: `texts` and `source_texts` may use no others.
    """

    def __init__(self, task: Any, side: str, joint: bool):
        self.name, kw = _plugin(task) if task is not None else ("", {})
        self.task = asked = object.__new__(lookup.find("task", self.name)) if self.name else None
        for key, value in kw.items() if self.name else ():
            object.__setattr__(asked, key, value)
        of_side = {name: getattr(asked, name, None) for name in ("source_texts", "texts")}
        if side == "source" and of_side["source_texts"] is None:
            raise UserError(f'data.source_tokenizer: task "{self.name}" has no source side. Leave it out (None).')
        chosen = of_side if joint else {k: f for k, f in of_side.items() if (k == "source_texts") == (side == "source")}
        self._functions = [f for f in chosen.values() if f is not None]
        self._field = getattr(asked, "text_field", "text")
        own = {k: v for k, v in kw.items() if not isinstance(v, float)}  # rates and weights do not say what is read
        self.fingerprint = {"texts": [self.name, own, sorted(chosen)]} if self._functions else {}
        if not self._functions and self._field != "text":
            self.fingerprint = {"texts": self._field}

    def __call__(self, raw: dict) -> Iterator[str]:
        for function in self._functions:
            yield from function(raw)
        if not self._functions:
            if self._field not in raw:
                raise UserError(unknown(f'task "{self.name}": the field that the tokenizer learns from,', self._field, raw))
            yield raw[self._field]


def load_facts(task: Any, config: Any, workdir: pathlib.Path, progress: Callable[[str], None] = cache.silent) -> dict:
    """Gives a task the facts that its train split decides (`Task.fit`, `Task.load`), and returns them; {} where it asks for none.

    They are read from `workdir/task.json`; a run that has no checkpoint yet finds them in the train split (or the cache) and stores them.
    Errors: UserError where the file of a run with checkpoints is missing, or it is damaged or another task's, or the task's settings have
    changed and it would find something else with them.
    """
    if not hasattr(task, "fit"):
        return {}
    path, name = workdir / FACTS, config.task.name
    settings = _settings_of(config)
    if path.exists():
        facts, was = _stored_facts(path, name)
        changed = [key for key in was if key not in settings or was[key] != settings[key]]
        if changed and _found_facts(task, config, progress) != facts:
            raise UserError(
                f"{path} was made with other settings of the task ({', '.join(changed)}), and with the new ones the train split says "
                "something else. Use another workdir, or the config as it was."
            )
    elif _has_checkpoints(workdir):
        raise UserError(f"{path} is missing: it holds what the task found in the training data, and the checkpoints need it. Restore it.")
    else:
        facts = _found_facts(task, config, progress)
        store_facts(workdir, config, facts)
    task.load(facts)
    return facts


def store_facts(workdir: pathlib.Path, config: Any, facts: dict) -> None:
    """Writes the facts of a run's task, from where `load_facts` takes them."""
    workdir.mkdir(parents=True, exist_ok=True)
    stored = dict(task=config.task.name, settings=_settings_of(config), facts=facts, sha256=_facts_hash(facts))
    _replace(workdir / FACTS, json.dumps(stored, indent=1, ensure_ascii=False).encode())


def _has_checkpoints(workdir: pathlib.Path) -> bool:
    return any(p.name.isdecimal() for p in (workdir / "checkpoints").glob("*"))


def _settings_of(config: Any) -> dict:
    return {**_plugin(config.task)[1], "sequence_length": config.sequence_length}


def _found_facts(task: Any, config: Any, progress: Callable[[str], None]) -> dict:
    source = source_for(config.data, "train")

    def write(folder: pathlib.Path) -> dict:
        progress(f"looking through the train split of {config.data.source.name} for what the task {config.task.name} needs to know")
        return {"task": _fitted(task, source)}

    facts = cache.entry("facts", dict(version=2, source=source.fingerprint(), task=task.fingerprint()), write, progress)[1]["task"]
    return json.loads(json.dumps(facts))  # what is found and what is stored are the same types


def _fitted(task: Any, source: Any) -> Any:
    """Returns what the task finds in a split. Errors: UserError, with the item's number where it is about one."""
    at = None

    def items() -> Iterator[dict]:
        nonlocal at
        for at in range(len(source)):
            yield source[at]
        at = None

    try:
        return task.fit(items())
    except UserError as error:
        raise error if at is None else UserError(f"item {at} of the train split (counted from 0): {error}") from error


def _stored_facts(path: pathlib.Path, name: str) -> tuple[dict, dict]:
    """Returns (facts, the settings that they were found with)."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        facts, was, right = stored["facts"], stored["task"], stored["sha256"] == _facts_hash(stored["facts"])
        settings = dict(stored.get("settings", {}))
    except (ValueError, KeyError, TypeError):
        right, was, facts, settings = False, name, {}, {}
    if not right:
        raise UserError(f"{path} is damaged: it is not what was stored there. Restore it, or use another workdir.")
    if was != name:
        raise UserError(f'{path} was made by task "{was}", the config asks for "{name}". Use another workdir, or the config as it was.')
    return facts, settings


def _facts_hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def suits(task: Any, packing: str) -> None:
    """Errors: UserError where a packing takes something else than a task (or its class) gives."""
    if not isinstance(wants := getattr(task, "batching", "tokens"), str):
        return  # of a class that has it as a property
    takes = "examples" if "examples" in lookup.given("packing", packing) else "tokens"
    if wants != takes:
        fitting = " or ".join(f'"{n}"' for n in lookup.names("packing") if wants in lookup.given("packing", n))
        raise UserError(
            f'data.packing: got "{packing}", which packs {takes}, but the task gives {wants}: set --config.data.packing.name to {fitting}.'
        )
    if packing == "packed" and not getattr(task, "packable", False):
        raise UserError(
            'data.packing: got "packed", which puts several examples into a row, and the task does not say that it can part them: set '
            '--config.data.packing.name to "buckets". (A task of your own whose features all run along the row says `packable = True`.)'
        )


def rows_for(
    data: Any, task: Any, split: str, length: int, progress: Callable[[str], None] = cache.silent, facts: Any = None
) -> PackedRows | MixedRows | ExampleRows:
    """Returns the rows of `length` tokens, or the examples, of one split; what the cache does not hold is made.

    Args:
      data: has `source` and `packing`, each with `name` and `kw`.
      task: batching "tokens": its `example(raw)["tokens"]` are a document's tokens; its tokenizer's end of text, where it has one, follows
        each document. batching "examples": its `example(raw)` are features (see `data/examples.py`).
      facts: what the task was given by `load`; part of the cache's key.
    Returns: for tokens rows(epoch, seed) and take(rows_B, epoch, seed) as a packing has them, for examples plan(batch_size, multiple);
      num_bytes (UTF-8 of the split's text), num_tokens, num_documents, num_targets (labels in one evaluation pass).
    """
    suits(task, data.packing.name)
    source = source_for(data, split)
    if getattr(task, "batching", "tokens") == "examples":
        return _example_rows(source, data, task, length, progress, facts)
    rows = _rows(source, data.source.name, data.packing, task, length, progress)
    empty = rows.share_without_target()
    progress(
        f"{split}: {rows.num_documents:,} documents, {units.size(rows.num_bytes)} of text, {rows.num_tokens:,} tokens, "
        f"{rows.rows(None, 0):,} rows of {length}, {empty:.1%} of them without anything to predict"
    )
    return rows


def _example_rows(source: Any, data: Any, task: Any, length: int, progress: Callable[[str], None], facts: Any) -> ExampleRows:
    parts = list(_parts(source, data.source.name, 1.0))
    shards = []
    for part, label, _ in parts:
        fingerprints = example_lib.fingerprint(part, task, facts)
        shards.append(example_lib.cached(fingerprints, part, task, f"{label} {source.split}", progress))
    examples = example_lib.Examples(shards, [weight for *_, weight in parts] if len(parts) > 1 else None)
    rows = ExampleRows(lookup.make("packing", data.packing, examples=examples, length=length), examples)
    lengths = examples.longest_E
    said = "; ".join(
        f"{text}: {sum(s.remarks.get(text, 0) for s in shards):,}" for text in dict.fromkeys(t for s in shards for t in s.remarks)
    )
    progress(
        f"{source.split}: {rows.num_documents:,} items, {len(examples):,} examples of {lengths.min()} to {lengths.max()} tokens, "
        f"{rows.num_tokens:,} in all, {rows.share_without_target():.1%} of them without anything to predict" + (f"; {said}" if said else "")
    )
    return rows


def _parts(source: Any, label: str, weight: float) -> Iterator[tuple[Any, str, float]]:
    """Yields (source, label, share) of what a mixture, of mixtures too, consists of."""
    parts = getattr(source, "sources", None)
    if parts is None:
        yield source, label, weight
        return
    total = sum(source.weights.values())
    for name, part in parts.items():
        yield from _parts(part, f"{label}/{name}", weight * source.weights[name] / total)


def _rows(source: Any, label: str, packing: Any, task: Any, length: int, progress: Callable[[str], None]) -> PackedRows | MixedRows:
    parts = getattr(source, "sources", None)
    if parts is not None:  # weights are kept over rows, so each part is packed by itself
        rows = {name: _rows(part, f"{label}/{name}", packing, task, length, progress) for name, part in parts.items()}
        return MixedRows(rows, source.weights)
    tokenizer = task.tokenizer
    fingerprints = dict(source=source.fingerprint(), task=task.fingerprint(), tokenizer=tokenizer.fingerprint(), eos=tokenizer.eos_id)
    tokens = cache.token_cache(
        fingerprints,
        documents=lambda: _tokenised(source, task),
        num_documents=lambda: len(source),
        vocab_size=(task.sizes() if hasattr(task, "sizes") else {}).get("vocab_size", tokenizer.vocab_size),
        label=f"{label} {source.split}",
        progress=progress,
    )
    return PackedRows(lookup.make("packing", packing, tokens=tokens, length=length), tokens)


def _tokenised(source: Any, task: Any) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (tokens with the end of text, UTF-8 bytes of the raw text) of each document."""
    field = getattr(task, "text_field", None)
    eos = [] if task.tokenizer.eos_id is None else [task.tokenizer.eos_id]
    for i in range(len(source)):
        raw = source[i]
        if field is not None and field not in raw:
            raise UserError(unknown("task: text_field", field, raw))
        try:
            num_bytes = len(raw.get(field or "text", "").encode("utf-8"))
        except UnicodeEncodeError as error:
            raise UserError(f"document {i} of the {source.split} split is not valid Unicode: {error.reason} at {error.start}.") from error
        try:
            tokens = task.example(raw)["tokens"]
        except UserError as error:
            raise UserError(f"document {i} of the {source.split} split: {error}") from error
        yield np.append(tokens, eos).astype(np.int32), num_bytes


def _trained(data: Any, tokenizer: Any, name: str, kw: dict, reader: _Reader, progress: Callable[[str], None]) -> bytes:
    """Trains on the train split, or takes the result of doing so from the cache."""
    if not getattr(tokenizer, "learns", True):
        return tokenizer.train(iter(()))
    source = source_for(data, "train")

    def write(path: pathlib.Path) -> dict:
        progress(f"training the {name} tokenizer on the train split of {data.source.name}")
        (path / ARTEFACT).write_bytes(tokenizer.train(_texts(source, reader)))
        return {}

    path, _ = cache.entry("tokenizer", dict(name=name, kw=kw, source=source.fingerprint(), **reader.fingerprint), write, progress)
    return (path / ARTEFACT).read_bytes()


def _texts(source: Any, reader: Callable[[dict], Iterable[str]] = lambda raw: [raw["text"]]) -> Iterator[str]:
    """Yields all texts, in runs of neighbours that are themselves in random order: whoever stops early has a fair sample."""
    total = len(source)
    for block in counter.permutation(-(-total // NEIGHBOURS), 0).tolist():
        for i in range(block * NEIGHBOURS, min((block + 1) * NEIGHBOURS, total)):
            try:
                yield from reader(source[i])
            except UserError as error:
                raise UserError(f"item {i} of the {source.split} split (counted from 0): {error}") from error


def _stored(directory: pathlib.Path, name: str, kw: dict) -> bytes | None:
    """Returns a run's own artefact, None where it has none."""
    if not (directory / SETTINGS).exists():
        return None
    settings = json.loads((directory / SETTINGS).read_text())
    artefact = (directory / ARTEFACT).read_bytes()
    if _settings(directory) != (name, kw):
        was, wanted = f"{settings['name']} {settings['kw']}", f"{name} {kw}"
        raise UserError(f"tokenizer: {directory} holds {was}, the config asks for {wanted}. Use another workdir, or the config as it was.")
    if hashlib.sha256(artefact).hexdigest() != settings["sha256"]:
        raise UserError(f"tokenizer: {directory / ARTEFACT} is damaged: it is not what was stored there. Use another workdir.")
    return artefact


def _settings(directory: pathlib.Path) -> tuple[str, dict]:
    """Returns what a stored artefact was made by, (name, kw)."""
    settings = json.loads((directory / SETTINGS).read_text())
    return settings["name"], settings["kw"]


def _store(directory: pathlib.Path, name: str, kw: dict, artefact: bytes) -> None:
    """Writes the settings last: a copy without them is not believed."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(dict(name=name, kw=kw, sha256=hashlib.sha256(artefact).hexdigest()), indent=1)
    for target, content in ((directory / ARTEFACT, artefact), (directory / SETTINGS, settings.encode())):
        _replace(target, content)


def _replace(target: pathlib.Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = target.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}")  # all processes of a run write the same
    temporary.write_bytes(content)
    os.replace(temporary, target)


def _plugin(plugin: Any) -> tuple[str, dict]:
    """Returns (name, kw) with kw in JSON's types, so that it compares equal after being stored."""
    name, kw = lookup.part(plugin)
    return name, json.loads(json.dumps(kw))
