"""What sources of records share: which files are a split, the mapping of a file's fields to an item's, and errors by file and line."""

import codecs
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError, nearest
from decoder_lab.data import files

PLACES = ("split", "path", "train", "validation", "test", "validation_fraction")
TEXTS = ("text", "text_pair", "source", "target", "question", "context")  # fields of an item that are one string
LISTS = ("references", "words", "tags")  # fields of an item that are lists of strings


class Wrong(ValueError):
    """A record is not as it must be; whoever knows file and line turns it into a UserError."""


@dataclasses.dataclass
class Records:
    """Items read from files, .gz too. A source inherits this and says in `open` how they are read.

    Attributes:
      split: given by the lab.
      path: file or glob that holds all data; the share `validation_fraction` of its records, chosen by hash, is for validation.
      train: file or glob of one split, instead of `path`; likewise validation, test.
      validation_fraction: used with `path`.
      encoding: of the files, as Python names it: "utf-8", "latin-1", "gb18030", ...
    """

    split: str
    path: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_fraction: float = 0.1
    encoding: str = "utf-8"

    version = 1  # raised whenever the same files and settings give other items
    flat = False  # whether each record is a list of items, all of which belong to one split

    def __post_init__(self):
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise UserError(f'source {self.name}: encoding "{self.encoding}" is not known, expected such as utf-8 or latin-1.') from error
        found = [self._files(side) for side in self.sides()]
        self.paths_S, self.together = [paths for paths, _ in found], found[0][1]

    @property
    def name(self) -> str:
        """The plug-in's name, for messages."""
        return type(self).__module__.rpartition(".")[2]

    def sides(self) -> tuple[str, ...]:
        """Names that stand in turn for {} in the names of files, where a record is spread over several files; ("",): one file."""
        return ("",)

    def open(self) -> Sequence:
        """Returns the records of `self.paths_S` (a list of files for each side), in the files' order."""
        raise NotImplementedError

    def divide(self, records: Sequence) -> np.ndarray:
        """Returns which records of `path` belong to the split."""
        return files.divide(len(records), self.split, self.validation_fraction)

    def _files(self, side: str) -> tuple[list, bool]:
        patterns = {name: getattr(self, name) for name in ("train", "validation", "test", "path")}
        used = self.split if patterns.get(self.split) else "path"
        if side and patterns[used] and "{}" not in patterns[used]:
            names = ", ".join(self.sides())
            raise UserError(
                f'source {self.name}: {used} is "{patterns[used]}", expected {{}} where the names of its files differ ({names}).'
            )
        if side and patterns[used]:
            patterns[used] = patterns[used].replace("{}", side)
        path = patterns.pop("path")
        return files.for_split(self.name, self.split, patterns, path)

    @functools.cached_property
    def _chosen(self) -> tuple[Sequence, np.ndarray]:
        """(records, the numbers of those in the split)."""
        records = self.open()
        if not len(records):
            names = ", ".join(str(p) for p in self.paths_S[0][:3]) + (", ..." if len(self.paths_S[0]) > 3 else "")
            raise UserError(f"source {self.name}: the {self.split} split holds nothing: {names}.")
        numbers = self.divide(records) if self.together else np.arange(len(records))
        if self.flat:
            records = [item for number in numbers for item in records[number]]
            numbers = np.arange(len(records))
        return records, numbers

    def __len__(self) -> int:
        return len(self._chosen[1])

    def __getitem__(self, i: int) -> dict:
        records, numbers = self._chosen
        return records[int(numbers[i])]

    def fingerprint(self) -> str:
        """Follows the files of the split and every setting; the files are not read."""
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in PLACES}
        divided = (self.split, self.validation_fraction) if self.together else ()
        paths = [path for paths in self.paths_S for path in paths]
        return files.fingerprint(paths, f"{self.name} {self.version}", json.dumps(settings, sort_keys=True, default=dict), divided)


class Lines:
    """Records of one document each, parsed when asked for."""

    def __init__(self, documents: files.Documents, parse: Callable[[str], dict]):
        self.documents, self._parse = documents, parse

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, i: int) -> dict:
        try:
            return self._parse(self.documents.text(i))
        except Wrong as error:
            raise UserError(f"{self.documents.where(i)}: {error}") from error


def lines(paths: Sequence, encoding: str, blank: bool = False) -> files.Documents:
    """Returns the lines of files, without those that are blank unless `blank`. Errors: UserError for encodings of other line breaks."""
    if "\n".encode(encoding) != b"\n":
        raise UserError(f"{paths[0]}: lines cannot be told apart in the encoding {encoding}. Convert the file to UTF-8.")
    return files.Documents(list(paths), b"\n", encoding, blank)


def chomped(line: str) -> str:
    """Returns a line without what some systems put at its ends: a carriage return, and a byte order mark before the first."""
    return line.removeprefix("\ufeff").removesuffix("\r")


class Aligned:
    """Records spread over files of equally many lines, one line of every side each; those with a blank side are left out.

    Errors: UserError where the numbers of files or lines differ.
    """

    def __init__(self, paths_S: list[list], encoding: str, parse: Callable[..., dict]):
        self._sides, self._parse = [lines(paths, encoding, blank=True) for paths in paths_S], parse
        first = self._sides[0]
        for side in self._sides[1:]:
            if len(side.paths) != len(first.paths):
                raise UserError(f"{first.paths[0]} and its like are {len(first.paths)} files, {side.paths[0]} {len(side.paths)}.")
            for number, (a, b) in enumerate(zip(first.paths, side.paths, strict=True)):
                counts = [int((s.file_D == number).sum()) for s in (first, side)]
                if counts[0] != counts[1]:
                    raise UserError(f"{a} has {counts[0]:,} lines, {b} {counts[1]:,}; expected one for one.")
        self._full = np.flatnonzero(np.all([side.full_D for side in self._sides], axis=0))

    def __len__(self) -> int:
        return len(self._full)

    def __getitem__(self, i: int) -> dict:
        number = int(self._full[i])
        try:
            return self._parse(*(chomped(side.text(number)) for side in self._sides))
        except Wrong as error:
            raise UserError(f"{self._sides[0].where(number)}: {error}") from error


def parsed(path: Any, rows: Iterable[tuple[int, Any]], parse: Callable[[Any], dict]) -> list[dict]:
    """Returns the records of a file that is read as a whole, given its (line, row) pairs."""
    found = []
    for line, row in rows:
        try:
            found.append(parse(row))
        except Wrong as error:
            raise UserError(f"{path}:{line}: {error}") from error
    return found


def json_object(text: str) -> dict:
    """Returns the JSON object that a line is. Errors: Wrong."""
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise Wrong(f"not JSON: {error.msg} at column {error.colno}.") from error
    if not isinstance(value, dict):
        raise Wrong(f'got {type(value).__name__}, expected an object such as {{"text": ...}}.')
    return value


def mapped(record: Mapping, fields: Mapping, join: str = " ") -> dict:
    """Returns {**record, **fields found in it}: the item that a record of a file stands for.

    Args:
      record: name -> value; names that are numbers (columns without a header) are left out of the item.
      fields: item field -> where it stands: a name, "a.b.0" for a value inside values, a number (from 0, by position), or a list of
        these, joined into one text without the empty ones.
      join: stands between the joined texts.
    Errors: Wrong where a field is not there, or is no text where it has to be one.
    """
    item = {name: value for name, value in record.items() if isinstance(name, str)}
    for name, place in fields.items():
        if isinstance(place, str | int):
            item[name] = _fitted(name, place, _pick(record, place, name), join)
        else:
            found = [_pick(record, p, name) for p in place]
            texts = [_fitted("text", p, value, join) for p, value in zip(place, found, strict=True) if value is not None]
            item[name] = join.join(text for text in texts if text)
    return item


def _pick(record: Any, place: str | int, name: str) -> Any:
    if isinstance(place, int):
        values = list(record.values())
        if not -len(values) <= place < len(values):
            raise Wrong(f"no column {place} (fields.{name}); there are {len(values)}, counted from 0.")
        return values[place]
    value: Any = record
    for part in [place] if place in record else place.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            keys = list(value) if isinstance(value, Mapping) else []
            raise Wrong(f'no field "{place}" (fields.{name}).{nearest(part, keys)} {_there(keys, name)}')
    return value


def _there(keys: list, name: str) -> str:
    """Says which fields there are, and how others are named or none."""
    there = ", ".join(map(str, keys)) or "none"
    first = next((str(key) for key in keys), "its name")
    return (
        f"Fields: {there}. Set --config.data.source.kw.fields to what your task reads of them, such as {{'{name}': '{first}'}} or "
        f"{{'{first}': '{first}'}}: all other fields of a line are handed on under their own names."
    )


def _fitted(name: str, place: str | int, value: Any, join: str) -> Any:
    """Returns a value in the type that items have for the field `name`."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        value = [v.decode("utf-8") if isinstance(v, bytes) else v for v in value]
    value = value.decode("utf-8") if isinstance(value, bytes) else value
    strings = isinstance(value, list) and all(isinstance(v, str) for v in value)
    if name in TEXTS:
        value = join.join(value) if strings else value
        if not isinstance(value, str):
            raise Wrong(f'field "{place}" is {type(value).__name__}, expected a string (for {name}).')
    elif name in LISTS:
        value, strings = ([value], True) if isinstance(value, str) else (value, strings)
        if not strings:
            raise Wrong(f'field "{place}" is {type(value).__name__}, expected a list of strings (for {name}).')
    elif name == "label":
        value = [str(v) for v in value] if isinstance(value, list) else str(value) if isinstance(value, int) else value
    return value


def grouped(items: Sequence[dict]) -> list[dict]:
    """Returns one item a source: the first, with all `target`s of equal `source` as its `references`. Errors: Wrong without them."""
    groups: dict[str, dict] = {}
    for item in items:
        if "source" not in item or "target" not in item:
            raise Wrong(f"items have {', '.join(item)}; grouping needs source and target: set fields=dict(source=..., target=...).")
        groups.setdefault(item["source"], {**item, "references": []})["references"].append(item["target"])
    return list(groups.values())


def problems(kw: dict) -> list[str]:
    """Checks across fields; a source that inherits `Records` inherits them too."""
    found = []
    if not kw["path"] and not kw["train"] and not kw["validation"] and not kw["test"]:
        found.append("no data: set path, or train and validation, to a file or glob")
    if kw["path"] and (kw["train"] or kw["validation"]):
        found.append("path holds train and validation together: set either path, or train and validation")
    if not 0 < kw["validation_fraction"] < 1:
        found.append(f"validation_fraction is {kw['validation_fraction']}, expected between 0 and 1")
    return found
