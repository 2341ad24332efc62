"""Predictions of a trained model for a file of raw items: labels, tags, answers, or the texts of a task that writes.

The input is JSON lines, each an object with the fields that the task reads (what is to be predicted may be missing), a table (.csv, .tsv)
of these columns, JSON as SQuAD has it where the run's source is `squad`, or plain text, one item a line, where the task reads one text; all
may be packed (.gz). The output is one JSON line an
item, in the same order, written batch by batch. Fields that hold what is to be predicted (`task.gold_fields`) are not looked at. Of an item
whose texts are blank nothing is predicted: null.
"""

import contextlib
import dataclasses
import gzip
import itertools
import json
import os
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from decoder_lab.core.errors import UserError

TABLES = {
    ".csv": dict(fields={}, join=" ", header=True, delimiter=",", quoted=True, encoding="utf-8"),
    ".tsv": dict(fields={}, join=" ", header=True, delimiter="\t", quoted=False, encoding="utf-8"),
}
READING = tuple(TABLES[".csv"])  # settings of the sources of these names
NOTHING = "nothing to predict of, as of a blank text; their prediction is null"
AT_ONCE = 1024  # items that are read, sorted by length and answered together


def read_items(path: str, task: Any, source: Mapping[str, Any] | None = None) -> Iterator[dict]:
    """Yields the raw items of a file (.gz too), or of standard input for "-".

    A file is JSON lines where its name ends with .jsonl or .json (of a run with source `squad` .json may be as SQuAD has it), a table where
    it ends with .csv or .tsv, else plain text; standard input is JSON lines where its first line is a JSON object.

    Args:
      source: `config.data.source` of the run: a table is read by the settings of a source csv or tsv, else it has a header that names the
        fields.
    Errors: UserError with file and line.
    """
    if path == "-":
        yield from _items(sys.stdin, "standard input", None, task)
        return
    if not pathlib.Path(path).is_file():
        raise UserError(f'--input: there is no file {pathlib.Path(path).absolute()} ("-" reads standard input).')
    packed = path.endswith(".gz")
    kind = pathlib.Path(path.removesuffix(".gz")).suffix
    if kind == ".json" and (source or {}).get("name") == "squad" and (asked := _of_squad(pathlib.Path(path), source["kw"]["encoding"])):
        yield from asked
        return
    if kind in TABLES:
        yield from _rows(pathlib.Path(path), kind, task, source or {})
        return
    with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            yield from _items(file, path, kind in (".jsonl", ".json"), task)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not a complete gzip file: {error}.") from error


def _of_squad(path: pathlib.Path, encoding: str) -> list[dict] | None:
    """Returns the questions of a file as SQuAD has it; None of one in another form."""
    from decoder_lab.data import files
    from decoder_lab.data.source import squad

    return squad.asked(files.read(path, encoding))


def _rows(path: pathlib.Path, kind: str, task: Any, source: Mapping[str, Any]) -> Iterator[dict]:
    """Yields the rows of a table as items; of the source's `fields` those are left out that hold what is to be predicted."""
    from decoder_lab.data import records, tables  # which import NumPy: the program's help does without

    kw = TABLES[kind] | ({k: source["kw"][k] for k in READING} if source.get("name") == kind[1:] else {})
    fields = {name: place for name, place in kw["fields"].items() if name not in getattr(task, "gold_fields", ())}
    table = tables.rows(path, kw["delimiter"], kw["quoted"], kw["header"], kw["encoding"], blank=True)
    yield from records.parsed(path, table, lambda row: records.mapped(row, fields, kw["join"]))


def check(path: str, task: Any, source: Mapping[str, Any] | None = None) -> None:
    """Reads a file of items through, so that its mistakes are found before a model is loaded. Errors: as of `read_items`."""
    for _ in read_items(path, task, source) if path != "-" else ():
        pass


def _items(lines: Iterable[str], name: str, is_json: bool | None, task: Any) -> Iterator[dict]:
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\n").removesuffix("\r")
        line = line.removeprefix("\ufeff") if number == 1 else line  # a byte-order mark, which is no part of the text
        if any("\ud800" <= c <= "\udfff" for c in line):
            raise UserError(f"{name}:{number}: not UTF-8.")
        if is_json is None:
            is_json = _is_object(line)
        if is_json and not line.strip():
            continue
        yield _parsed(line, f"{name}:{number}") if is_json else _from_text(line, task)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _parsed(line: str, where: str) -> dict:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}.") from error
    if not isinstance(item, dict):
        raise UserError(f"{where}: got {type(item).__name__}, expected a JSON object with the fields that the task reads.")
    return item


def _from_text(line: str, task: Any) -> dict:
    """Makes an item of a line of text, for a task that reads one."""
    if hasattr(task, "prompt"):
        return {"source": line}
    if hasattr(task, "text_field") and getattr(task, "pairs", "none") == "none":
        return {task.text_field: line}
    if "tags" in {field.name for field in dataclasses.fields(task)}:
        return {"words": line.split()}
    name = type(task).__module__.rpartition(".")[2]
    raise UserError(f"task {name} reads more than one text an item: give JSON lines (a file that ends with .jsonl) with its fields.")


def run(items: Iterable[dict], predict: Callable[[list[dict]], list[Any]], out: TextIO, news: TextIO | None = None) -> int:
    """Writes one JSON line an item; returns how many.

    A line is {"index", "id" where the item has one, "cut": tokens of it that the model did not see, where there are any, "prediction"}. How
    many items were cut, and how many were answered by null, is said to `news`, by default standard error.
    """
    number, cut, empty, items = 0, 0, 0, iter(items)
    extents = getattr(predict, "extents", {})
    while group := list(itertools.islice(items, AT_ONCE)):
        for raw, value in zip(group, predict(group), strict=True):
            named = {"id": raw["id"]} if "id" in raw else {}
            lost = extents.pop(number, (1, 0))[1]
            cut, empty = cut + bool(lost), empty + (value is None)
            named |= {"cut": lost} if lost else {}
            out.write(json.dumps({"index": number, **named, "prediction": value}, ensure_ascii=False) + "\n")
            number += 1
        out.flush()
    for count, what in ((cut, 'too long, and cut to what the model reads; "cut" is their tokens that it did not see'), (empty, NOTHING)):
        if count:
            print(f"warning: {count:,} of {number:,} items: {what}", file=news or sys.stderr)
    return number


@contextlib.contextmanager
def output(path: str) -> Iterator[TextIO]:
    """Opens a file to be written; it takes its name once it is whole, and is <name>.part before and where the rest could not be made."""
    target = pathlib.Path(path).resolve()
    part = target.with_name(target.name + ".part")
    if target.exists() and not target.is_file():  # a pipe or a device
        part = target
    with open(part, "w", encoding="utf-8") as out:
        yield out
    if part != target:
        os.replace(part, target)


def extent(task: Any, raw: dict) -> tuple[int, int]:
    """Returns about how many tokens an item's texts have, 0 where they are blank, and how many of them the model does not see."""
    if hasattr(task, "extent"):
        return task.extent(raw)
    source = raw.get("source")
    return int(not isinstance(source, str) or bool(source.strip())), 0


def _asked(function: Callable[[dict], Any], task: Any, raw: dict, number: int, extents: dict[int, tuple[int, int]]) -> Any:
    """Returns what `task.example` or `task.prompt` makes of an item without its answer, None where it is blank.

    `extents` takes the item's `extent` under its number. Errors: UserError with the item's number.
    """
    try:
        asked = {name: value for name, value in raw.items() if name not in getattr(task, "gold_fields", ())}
        made = function(asked)
        extents[number] = extent(task, asked)
        return made if extents[number][0] else None
    except UserError as error:
        raise UserError(f"item {number} of the input (counted from 0, as in the output): {error}") from error


def predictor(task: Any, model: Any, params: Any, batch_size: int) -> Callable[[list[dict]], list[Any]]:
    """Returns raw items -> one JSON-like value each, by `task.predict` and `task.decode`; parts of an item are put together by `task.join`.

    An item of which the task makes no example gives None. Values do not depend on `batch_size`.
    """
    import jax
    import numpy as np

    from decoder_lab.data import examples as example_lib
    from decoder_lab.decoding.context import bucket

    compiled, before = jax.jit(lambda params, batch: task.predict(model, params, batch)), itertools.count()
    extents: dict[int, tuple[int, int]] = {}

    def width(longest: int) -> int:
        return max(longest, min(bucket(longest), getattr(task, "length", longest)))

    def predict(group: list[dict]) -> list[Any]:
        made, owner = [], []
        for i, raw in enumerate(group):
            found = _asked(task.example, task, raw, next(before), extents)
            found = [found] if isinstance(found, dict) else found or []
            made += found
            owner += [i] * len(found)
        if not made:
            return [None] * len(group)
        examples = example_lib.in_memory(made)
        parts: list[list] = [[] for _ in group]
        values: list[Any] = [None] * len(made)
        order = np.argsort(examples.longest_E, kind="stable")
        for start in range(0, len(order), batch_size):
            e_B = order[start : start + batch_size]
            lengths = {name: int(examples.lengths(name)[e_B].max(initial=1)) for name in examples.ragged}
            widths = {name: examples.fixed.get(name) or width(size) for name, size in lengths.items()}
            batch = examples.take(np.concatenate([e_B, np.full(batch_size - len(e_B), -1)]), widths)
            for e, value in zip(e_B.tolist(), task.decode(jax.device_get(compiled(params, batch)), batch), strict=False):
                values[e] = value
        for i, value in zip(owner, values, strict=True):
            parts[i].append(value)
        return [_joined(task, raw, found) for raw, found in zip(group, parts, strict=True)]

    predict.extents = extents
    return predict


def _joined(task: Any, raw: dict, parts: list) -> Any:
    if hasattr(task, "join") and parts:
        return task.join(raw, parts)
    return parts[0] if len(parts) == 1 else parts or None


def writer(
    task: Any, model: Any, params: Any, tokenizer: Any, settings: Any, *, num_tokens: int, batch_size: int, seed: int
) -> Callable[[list[dict]], list[str | None]]:
    """Returns raw items with a source -> the text that the model writes for each, None for a blank one, whatever the `batch_size`."""
    from decoder_lab.decoding.batches import generate_all
    from decoder_lab.decoding.generate import Generator

    generator, before = Generator.for_task(model, tokenizer, task), itertools.count()
    extents: dict[int, tuple[int, int]] = {}

    def predict(group: list[dict]) -> list[str | None]:
        numbers = [next(before) for _ in group]
        sizes = dict(num_tokens=num_tokens, batch_size=batch_size)
        prompts = [_asked(task.prompt, task, raw, number, extents) for raw, number in zip(group, numbers, strict=True)]
        asked = [(prompt, number) for prompt, number in zip(prompts, numbers, strict=True) if prompt is not None]
        if not asked:
            return [None] * len(group)
        found = iter(generate_all(generator, params, [p for p, _ in asked], settings, seed=seed, numbers=[n for _, n in asked], **sizes))
        return [None if prompt is None else next(found).text for prompt in prompts]

    predict.extents = extents
    return predict
