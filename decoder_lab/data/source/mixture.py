"""Several sources in fixed proportions. The proportions hold for rows of tokens, after packing, at every moment of training.

As a source of documents (for a tokenizer to learn from) it is its parts one after the other; evaluation takes every row of every part
once. The proportions are kept by `data/rows.py`.
"""

import bisect
import dataclasses
import itertools

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Plugin


@dataclasses.dataclass
class Source:
    """Items of the parts.

    Attributes:
      split: given by the lab.
      parts: name -> source, e.g. dict(code=dict(name="python_stdlib"), prose=dict(name="text", kw=dict(path="*.txt"))).
      weights: name -> share of the rows, in any unit.
    """

    split: str
    parts: dict[str, Plugin["source"]] = dataclasses.field(default_factory=dict)  # noqa: F821
    weights: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.sources = {}
        for name, part in self.parts.items():
            try:
                self.sources[name] = lookup.find("source", part["name"])(split=self.split, **dict(part.get("kw") or {}))
            except UserError as error:
                raise UserError(f'source mixture, part "{name}": {error}') from error

    @property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(len(s) for s in self.sources.values()))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> dict:
        ends = self._ends
        part = bisect.bisect_right(ends, i)
        return list(self.sources.values())[part][i - (ends[part - 1] if part else 0)]

    def fingerprint(self) -> str:
        return repr([(name, source.fingerprint()) for name, source in self.sources.items()])


def problems(kw: dict) -> list[str]:
    """Checks across fields."""
    if not kw["parts"]:
        return ["parts is empty: give name -> dict(name=<source>, kw=...)"]
    parts, weights = sorted(kw["parts"]), sorted(kw["weights"])
    found = [f"weights are for {', '.join(weights) or 'nothing'}; the parts are {', '.join(parts)}"] if parts != weights else []
    bad = [f"{name}={value}" for name, value in kw["weights"].items() if not isinstance(value, int | float) or not value > 0]
    return found + ([f"weights must be above 0: {', '.join(bad)}"] if bad else [])
