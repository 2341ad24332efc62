"""Plain text files, UTF-8 (.gz too): one document a file, or one between separators. Characters are handed on as they are in the file."""

import dataclasses
import functools

from decoder_lab.core.errors import UserError
from decoder_lab.data import files


@dataclasses.dataclass
class Source:
    """Items {"text": str}.

    Attributes:
      split: given by the lab.
      path: file or glob that holds all data. Of several documents the share `validation_fraction`, chosen by hash, is for validation;
        of a single one its end.
      train: file or glob of one split, instead of `path`; likewise validation, test.
      validation_fraction: used with `path`.
      document_separator: text between documents, such as "<|endoftext|>"; empty: a file is a document.
    """

    split: str
    path: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_fraction: float = 0.1
    document_separator: str = ""

    def __post_init__(self):
        chosen = dict(train=self.train, validation=self.validation, test=self.test)
        self._paths, self._together = files.for_split("text", self.split, chosen, self.path)

    @functools.cached_property
    def _documents(self) -> files.Documents:
        documents = files.Documents(self._paths, self.document_separator.encode())
        if not len(documents):
            names = ", ".join(str(p) for p in self._paths[:3]) + (", ..." if len(self._paths) > 3 else "")
            raise UserError(f"source text: the {self.split} split holds no text: {names}.")
        if self._together and len(documents) == 1:
            documents.cut(self.split, self.validation_fraction)
        elif self._together:
            documents.keep(files.divide(len(documents), self.split, self.validation_fraction))
        return documents

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, i: int) -> dict[str, str]:
        return {"text": self._documents.text(i)}

    def fingerprint(self) -> str:
        divided = (self.split, self.validation_fraction) if self._together else ()
        return files.fingerprint(self._paths, "text 1", self.document_separator, divided)


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
