"""Texts side by side in files of equally many lines (.gz too): line i of one file belongs to line i of the other."""

import dataclasses

from decoder_lab.data import records


@dataclasses.dataclass
class Source(records.Records):
    """Items {"source": str, "target": str}, and "references" where there are further sides. Pairs with a blank side are left out.

    In the files' names {} stands for the side: path="corpus.{}.gz", source="de", target="en" reads corpus.de.gz and corpus.en.gz.

    Attributes:
      source: the side to be read.
      target: the side to be written.
      references: further sides that are as good as the target, for scoring; the target is the first reference.
    """

    source: str = "source"
    target: str = "target"
    references: tuple[str, ...] = ()

    def sides(self) -> tuple[str, ...]:
        """Source, target, and the further references."""
        return (self.source, self.target, *self.references)

    def open(self) -> records.Aligned:
        """Returns the pairs, read when asked for."""
        return records.Aligned(self.paths_S, self.encoding, self._parse)

    def _parse(self, source: str, target: str, *more: str) -> dict:
        item = {"source": source.strip(), "target": target.strip()}
        return {**item, "references": [target.strip(), *(text.strip() for text in more)]} if more else item
