"""Tables in text files: rows of columns, with or without a line of column names."""

import csv
import io
import pathlib
from collections.abc import Iterator

from decoder_lab.core.errors import UserError
from decoder_lab.data import files, records

LONGEST_FIELD = 1 << 30  # characters; the csv module's own limit is 131,072, which a document may exceed


def items(source: records.Records) -> list[dict]:
    """Returns the rows of a source's files as items; it has the fields `fields, join, header, delimiter, quoted, group` beside its own.

    Errors: UserError with file and line for rows that do not fit, and for `group` where the split is not a file of its own.
    """
    found = []
    for path in source.paths_S[0]:
        table = rows(path, source.delimiter, source.quoted, source.header, source.encoding)
        found += records.parsed(path, table, lambda row: records.mapped(row, source.fields, source.join))
    if source.split not in source.group:
        return found
    if source.together:
        raise UserError(f"source {source.name}: group needs files of each split: set train, validation and test instead of path.")
    try:
        return records.grouped(found)
    except records.Wrong as error:
        raise UserError(f"source {source.name}: {error}") from error


def rows(path: pathlib.Path, delimiter: str, quoted: bool, header: bool, encoding: str, blank: bool = False) -> Iterator[tuple[int, dict]]:
    """Yields (line of its beginning, {column name: text}) of each row; without a header the names are the numbers 0, 1, ...

    Args:
      quoted: whether a field may stand in double quotes, and then hold delimiters, line breaks and doubled quotes.
      blank: whether rows whose fields are all blank count; lines with nothing in them never do.
    Errors: UserError for quotes that do not close, and for rows that are longer or shorter than the first.
    """
    found = (_quoted if quoted else _plain)(path, files.read(path, encoding), delimiter, blank)
    names: list | None = None
    for line, row in found:
        if names is None:
            names = row if header else list(range(len(row)))
            if header and len(set(names)) < len(names):
                raise UserError(f"{path}:{line}: the header has a column twice: {', '.join(names)}. Has the file a header (header=false)?")
            if header:
                continue
        if len(row) != len(names):
            wanted = f"got {len(row)} columns, expected {len(names)} as in the first line"
            raise UserError(f"{path}:{line}: {wanted}. {_hint(delimiter, quoted)}")
        yield line, dict(zip(names, row, strict=True))


def _hint(delimiter: str, quoted: bool) -> str:
    quotes = "and may stand in double quotes" if quoted else "and quotes mean nothing (quoted=false)"
    return f"Columns are divided by {delimiter!r}, {quotes}."


def _plain(path: pathlib.Path, text: str, delimiter: str, blank: bool) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line if blank else line.strip():
            yield number, line.split(delimiter)


def _quoted(path: pathlib.Path, text: str, delimiter: str, blank: bool) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}:{line}: {error} (quoted=true). {_hint(delimiter, True)}") from error
        if row if blank else any(field.strip() for field in row):
            yield line, row
        line = reader.line_num + 1
