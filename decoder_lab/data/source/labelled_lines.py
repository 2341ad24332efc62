"""Lines that begin with their label (.gz too), as in TREC ("DESC:manner How did ...") and fastText ("__label__a __label__b text")."""

import dataclasses
import re

from decoder_lab.data import records


@dataclasses.dataclass
class Source(records.Records):
    """Items {"text": str, "label": str}, or a list of labels where a line may have several.

    Attributes:
      prefix: what every label begins with, such as "__label__" (it is taken off); empty: the first word of a line is its label.
      multiple: whether `label` is a list of all leading words that have the prefix.
      coarse: only the part of a label before this is its name, e.g. ":" makes DESC of DESC:manner; empty: all of it.
    """

    prefix: str = ""
    multiple: bool = False
    coarse: str = ""

    def open(self) -> records.Lines:
        """Returns the lines, parsed when asked for."""
        return records.Lines(records.lines(self.paths_S[0], self.encoding), self._parse)

    def _parse(self, line: str) -> dict:
        labels, rest = [], records.chomped(line).strip()
        while rest and rest.startswith(self.prefix) and (not labels or (self.prefix and self.multiple)):
            label, *after = re.split(r"[ \t]+", rest, maxsplit=1)
            rest = after[0] if after else ""
            name = label.removeprefix(self.prefix)
            labels.append(name.split(self.coarse)[0] if self.coarse else name)
        if not labels and not self.multiple:
            raise records.Wrong(f'got "{rest[:40]}", expected a label that begins with "{self.prefix}" (prefix) and then a text.')
        if not rest:
            raise records.Wrong(f'got "{line.strip()[:40]}", expected a text after the label.')
        return {"text": rest, "label": labels if self.multiple else labels[0]}
