"""Plain text files (.gz too): one document a file, or one between separators. Characters are handed on as they are in the file."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from decoder_lab.data import files, records


@dataclasses.dataclass
class Source(records.Records):
    """Items {"text": str}. Of a single document in `path` the end is for validation.

    Attributes:
      document_separator: text between documents, such as "<|endoftext|>"; empty: a file is a document.
    """

    document_separator: str = ""

    version = 2

    def open(self) -> records.Lines:
        """Returns the documents."""
        found = files.Documents(self.paths_S[0], self.document_separator.encode(self.encoding), self.encoding)
        return records.Lines(found, lambda text: {"text": text})

    def divide(self, records: Sequence) -> np.ndarray:
        """Cuts a single document in two."""
        if len(records) > 1:
            return super().divide(records)
        records.documents.cut(self.split, self.validation_fraction)
        return np.arange(1)
