"""Utterances with a tag a word and an intent, in three files of equally many lines (.gz too), as SNIPS and ATIS are handed out."""

import dataclasses

from decoder_lab.data import records


@dataclasses.dataclass
class Source(records.Records):
    """Items {"words": [str], "tags": [str], "label": str}.

    In the files' names {} stands for the side: train="snips/train/{}.gz" reads seq.in.gz, seq.out.gz and label.gz.

    Attributes:
      words: the side of the words, between spaces.
      tags: the side of their tags.
      label: the side of the intents.
    """

    words: str = "seq.in"
    tags: str = "seq.out"
    label: str = "label"

    def sides(self) -> tuple[str, ...]:
        """Words, tags, intents."""
        return (self.words, self.tags, self.label)

    def open(self) -> records.Aligned:
        """Returns the utterances, read when asked for."""
        return records.Aligned(self.paths_S, self.encoding, _parse)


def _parse(words: str, tags: str, label: str) -> dict:
    item = {"words": _words(words), "tags": _words(tags), "label": label.strip()}
    if len(item["words"]) != len(item["tags"]):
        raise records.Wrong(f"{len(item['words'])} words, {len(item['tags'])} tags: {words.strip()[:60]}")
    return item


def _words(line: str) -> list[str]:
    return [word for word in line.split(" ") if word]
