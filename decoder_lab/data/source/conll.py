"""Words and tags in columns, one word a line, an empty line after each sentence (.gz too), as in CoNLL's shared tasks."""

import dataclasses
import re
from collections.abc import Iterator

from decoder_lab.core.errors import UserError
from decoder_lab.data import files, records


@dataclasses.dataclass
class Source(records.Records):
    """Items {"words": [str], "tags": [str]}. A line of nothing but white space ends a sentence.

    Attributes:
      word_column: number of the words' column, from 0; negative: from the end.
      tag_column: number of the tags' column.
      separator: between columns; empty: tabs where a line has any, otherwise any white space.
      skip: regex; lines that begin so are left out. CoNLL-U has r"#|\\d+[-.]".
    """

    word_column: int = 0
    tag_column: int = -1
    separator: str = ""
    skip: str = "-DOCSTART-"

    def __post_init__(self):
        super().__post_init__()
        try:
            self._skip = re.compile(self.skip) if self.skip else None
        except re.error as error:
            raise UserError(f'source conll: skip="{self.skip}" is not a regex: {error}.') from error

    def open(self) -> list[dict]:
        """Returns all sentences."""
        return [item for path in self.paths_S[0] for item in self._sentences(path)]

    def _sentences(self, path) -> Iterator[dict]:
        words, tags = [], []
        for number, line in enumerate(files.read(path, self.encoding).split("\n"), 1):
            line = line.removesuffix("\r")
            if line.strip() and not (self._skip and self._skip.match(line)):
                columns = line.split(self.separator or ("\t" if "\t" in line else None))
                try:
                    word, tag = columns[self.word_column], columns[self.tag_column]
                except IndexError as error:
                    wanted = f"word_column={self.word_column}, tag_column={self.tag_column}"
                    raise UserError(f'{path}:{number}: got {len(columns)} column(s), expected {wanted}: "{line[:40]}".') from error
                if len(columns) < 2 or not word.strip() or not tag.strip():
                    raise UserError(f'{path}:{number}: got {columns}, expected a word and a tag: "{line[:40]}".')
                words.append(word)
                tags.append(tag.strip())
            elif words and not line.strip():
                yield {"words": words, "tags": tags}
                words, tags = [], []
        if words:
            yield {"words": words, "tags": tags}
