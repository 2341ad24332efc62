"""A part of the parameters is trained, chosen by path; the rest stays bit for bit what it was."""

import dataclasses
from typing import Any

from decoder_lab.adapters import base
from decoder_lab.core import tree


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    if bool(kw["train"]) == bool(kw["frozen"]):
        return ["set either train (what is trained) or frozen (all else is trained), as regexes on parameter paths"]
    return []


@dataclasses.dataclass(frozen=True)
class Adapter(base.Adapter):
    """Adds nothing.

    Attributes:
      train: regexes on paths of the parameters that are trained, beside the heads.
      frozen: instead, those that are not; all others are.
    """

    train: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    def trained(self, params: Any) -> set[str]:
        tree.check_patterns(params, (*self.train, *self.frozen), "adapt.kw.train" if self.train else "adapt.kw.frozen")
        hits = tree.flatten(tree.mask(params, self.train or self.frozen))
        return {path for path, hit in hits.items() if hit == bool(self.train)} | super().trained(params)

    def merge(self, params: Any) -> Any:
        return params

    def unmerge(self, merged: Any, params: Any) -> Any:
        return merged
