"""JSON lines (.gz too): one JSON object a line, one of whose fields is the text. All other fields are handed on beside it."""

import dataclasses
import functools
import json

from decoder_lab.core.errors import UserError, nearest
from decoder_lab.data import files


@dataclasses.dataclass
class Source:
    """Items {"text": str, **all fields of the line}; `text` is the field `text_field`, whatever its name in the file.

    Attributes:
      split: given by the lab.
      path: file or glob that holds all data; the share `validation_fraction` of its lines, chosen by hash, is for validation.
      train: file or glob of one split, instead of `path`; likewise validation, test.
      text_field: name of the field that is the text.
      validation_fraction: used with `path`.
    """

    split: str
    path: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    text_field: str = "text"
    validation_fraction: float = 0.1

    def __post_init__(self):
        chosen = dict(train=self.train, validation=self.validation, test=self.test)
        self._paths, self._together = files.for_split("jsonl", self.split, chosen, self.path)

    @functools.cached_property
    def _lines(self) -> files.Documents:
        lines = files.Documents(self._paths, b"\n")
        if not len(lines):
            raise UserError(f"source jsonl: the {self.split} split holds no line: {', '.join(map(str, self._paths[:3]))}.")
        if self._together:
            lines.keep(files.divide(len(lines), self.split, self.validation_fraction))
        return lines

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> dict:
        try:
            item = json.loads(self._lines.text(i))
        except json.JSONDecodeError as error:
            raise UserError(f"{self._lines.where(i)}: not JSON: {error.msg} at column {error.colno}.") from error
        if not isinstance(item, dict):
            raise UserError(f'{self._lines.where(i)}: got {type(item).__name__}, expected an object such as {{"text": ...}}.')
        if self.text_field not in item:
            hint, known = nearest(self.text_field, item), ", ".join(item) or "none"
            raise UserError(f'{self._lines.where(i)}: no field "{self.text_field}" (text_field).{hint} Fields: {known}.')
        text = item[self.text_field]
        if not isinstance(text, str):
            raise UserError(f'{self._lines.where(i)}: field "{self.text_field}" is {type(text).__name__}, expected a string.')
        return {**item, "text": text}

    def fingerprint(self) -> str:
        divided = (self.split, self.validation_fraction) if self._together else ()
        return files.fingerprint(self._paths, "jsonl 1", self.text_field, divided)


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    found = []
    if not kw["path"] and not kw["train"] and not kw["validation"] and not kw["test"]:
        found.append("no data: set path, or train and validation, to a file or glob")
    if kw["path"] and (kw["train"] or kw["validation"]):
        found.append("path holds train and validation together: set either path, or train and validation")
    if not 0 < kw["validation_fraction"] < 1:
        found.append(f"validation_fraction is {kw['validation_fraction']}, expected between 0 and 1")
    return found
