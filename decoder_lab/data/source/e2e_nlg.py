"""The E2E data-to-text set (Novikova et al. 2017) in both forms that it is handed out in, brought into one.

The original is a CSV file with columns `mr` and `ref`. The tokenised form (Wiseman et al. 2018) is a pair of files: lines such as
"__start_name__ The Mill __end_name__ ..." and lines of tokens that end with "<eos>|||" and alignments; its spaces are taken back here.
"""

import dataclasses
import re

from decoder_lab.data import records, tables

FIELD = re.compile(r"__start_(\w+)__ (.*?) __end_\1__")
NAMES = {"customerrating": "customer rating"}
SPACES = (
    (re.compile(r"\s+([.,;:!?])"), r"\1"),
    (re.compile(r"\s+('(?:s|re|ll|ve|m|d|t)\b)"), r"\1"),
    (re.compile(r"£ (?=\d)"), "£"),
    (re.compile(r"(?<=\w) ?- ?(?=\w|£)"), "-"),
    (re.compile(r"\s+"), " "),
)


@dataclasses.dataclass
class Source(records.Records):
    """Items {"source": "name[The Mill], food[English]", "target": str}, of a split in `group` one a meaning, with all its "references".

    A file name that ends in .csv or .csv.gz is read in the original form; with {} in it the tokenised pair is read, {} standing for
    `source` and for `target`.

    Attributes:
      source: the side of the meanings in the tokenised form.
      target: the side of the texts.
      group: splits in which all texts of one meaning are one item.
    """

    source: str = "src_train"
    target: str = "train"
    group: tuple[str, ...] = ("validation", "test")

    def sides(self) -> tuple[str, ...]:
        """The two files of the tokenised form, or the one of the original."""
        return (self.source, self.target) if "{}" in (getattr(self, self.split, None) or self.path or "") else ("",)

    def open(self) -> list[dict]:
        """Returns all items."""
        if len(self.paths_S) == 2:
            pairs = records.Aligned(self.paths_S, self.encoding, _from_tokens)
            found = [pairs[i] for i in range(len(pairs))]
        else:
            tabled = [(p, tables.rows(p, ",", True, True, self.encoding)) for p in self.paths_S[0]]
            found = [item for path, rows in tabled for item in records.parsed(path, rows, _from_row)]
        return records.grouped(found) if self.split in self.group else found


def _from_row(row: dict) -> dict:
    item = records.mapped(row, {"source": "mr", "target": "ref"})
    return {"source": item["source"].strip(), "target": _spaced(item["target"])}


def _from_tokens(meaning: str, text: str) -> dict:
    found = FIELD.findall(meaning)
    if not found:
        raise records.Wrong(f'got "{meaning[:40]}", expected "__start_name__ ... __end_name__ ...".')
    source = ", ".join(f"{NAMES.get(name, name)}[{_spaced(value)}]" for name, value in found)
    return {"source": source, "target": _spaced(text.partition("<eos>")[0])}


def _spaced(text: str) -> str:
    for pattern, replacement in SPACES:
        text = pattern.sub(replacement, text)
    return text.strip()
