"""JSON lines (.gz too): one JSON object a line, one item each. All fields of a line are handed on beside the chosen ones."""

import dataclasses

from decoder_lab.data import records


@dataclasses.dataclass
class Source(records.Records):
    """Items {**fields of the line, **fields}.

    Attributes:
      fields: item field -> field of the line, "a.b.0" for a value inside values, or a list of these to be joined,
        e.g. dict(source="source", target="target.0", references="target").
      join: stands between joined texts, and between the strings of a list where an item has one text.
    """

    fields: dict = dataclasses.field(default_factory=lambda: dict(text="text"))
    join: str = " "

    version = 2

    def open(self) -> records.Lines:
        """Returns the lines, parsed when asked for."""
        found = records.lines(self.paths_S[0], self.encoding)
        return records.Lines(found, lambda line: records.mapped(records.json_object(line), self.fields, self.join))
