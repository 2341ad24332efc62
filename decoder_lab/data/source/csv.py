"""Comma-separated values (.gz too): one item a row, columns may stand in double quotes; chosen by their names, or by numbers from 0."""

import dataclasses

from decoder_lab.data import records, tables


@dataclasses.dataclass
class Source(records.Records):
    """Items {**columns by their names, **fields}.

    Attributes:
      fields: item field -> column name, or number from 0, or a list of these to be joined, e.g. dict(text=1, label=0).
      join: stands between joined columns.
      header: whether the first row of every file names the columns.
      delimiter: between columns.
      quoted: whether columns may stand in double quotes.
      group: splits in which all rows of equal `source` become one item with their targets as `references`, e.g. ("validation", "test").
    """

    fields: dict = dataclasses.field(default_factory=dict)
    join: str = " "
    header: bool = True
    delimiter: str = ","
    quoted: bool = True
    group: tuple[str, ...] = ()

    def open(self) -> list[dict]:
        """Returns all rows, as items."""
        return tables.items(self)
