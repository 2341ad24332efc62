"""JSON files (.gz too) that hold a list of objects: one item an object."""

import dataclasses
import json

from decoder_lab.core.errors import UserError
from decoder_lab.data import files, records


@dataclasses.dataclass
class Source(records.Records):
    """Items {**fields of the object, **fields}.

    Attributes:
      fields: item field -> field of the object, "a.b.0" for a value inside values, or a list of these to be joined,
        e.g. dict(source=("instruction", "input"), target="output").
      join: stands between joined texts.
      within: where in the file the list stands, "" for the file itself, otherwise such as "data.rows".
    """

    fields: dict = dataclasses.field(default_factory=lambda: dict(text="text"))
    join: str = "\n"
    within: str = ""

    def open(self) -> list[dict]:
        """Returns all objects, as items."""
        return [item for path in self.paths_S[0] for item in self._items(path)]

    def _items(self, path) -> list[dict]:
        try:
            content = json.loads(files.read(path, self.encoding))
        except json.JSONDecodeError as error:
            hint = "Is it one object a line? Then use source jsonl."
            raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}. {hint}") from error
        for name in filter(None, self.within.split(".")):
            if not isinstance(content, dict) or name not in content:
                known = ", ".join(content) if isinstance(content, dict) else f"a {type(content).__name__}"
                raise UserError(f'{path}: no "{name}" (within="{self.within}"); there is {known}.')
            content = content[name]
        if not isinstance(content, list):
            raise UserError(f"{path}: got {type(content).__name__}, expected a list of objects; `within` says where in the file it stands.")
        found = []
        for number, record in enumerate(content):
            try:
                if not isinstance(record, dict):
                    raise records.Wrong(f"got {type(record).__name__}, expected an object.")
                found.append(records.mapped(record, self.fields, self.join))
            except records.Wrong as error:
                raise UserError(f"{path}, entry {number}: {error}") from error
        return found
