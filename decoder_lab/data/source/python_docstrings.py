"""Functions of the running interpreter's own library and what their docstrings say of them: summaries that need no download."""

import dataclasses
import functools
import inspect
import re
from typing import Literal

import numpy as np

from decoder_lab.data import counter, interpreter

LONGEST = 2000  # characters of a function
WORDS = (3, 60)  # of a summary
DRAWS = 64  # of another function's summary, of which the first that differs is taken


@dataclasses.dataclass
class Source:
    """Items {"source": a function without its docstring, "target": the docstring's first paragraph, on one line, "path": str}.

    The split follows from the file, see `data/interpreter.py`. Of functions that are equal in both the first is taken.

    Attributes:
      rejected: what is added to an item as "rejected", beside "chosen", its target: "other", the target of another function, or
        "shuffled", its own with its words in another order, either drawn by the item's number; "none": neither is added.
    """

    split: str
    rejected: Literal["none", "other", "shuffled"] = "none"

    def __post_init__(self):
        self._names = interpreter.code(self.split, "python_docstrings")

    def __len__(self) -> int:
        return len(_pairs(tuple(self._names)))

    def __getitem__(self, i: int) -> dict[str, str]:
        pairs = _pairs(tuple(self._names))
        item = dict(zip(("source", "target", "path"), pairs[i], strict=True))
        if self.rejected == "none":
            return item
        return {**item, "chosen": item["target"], "rejected": _rejected([target for _, target, _ in pairs], i, self.rejected)}

    def fingerprint(self) -> str:
        version = "python_docstrings 1" + ("" if self.rejected == "none" else f" {self.rejected}")
        return interpreter.fingerprint(self._names, version, self.split)


@functools.cache
def _pairs(names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    found, seen = [], set()
    for function in interpreter.functions(names):
        statement = function.docstring()
        if statement is None:
            continue
        source, target = function.source(without=statement), summary(statement.value.value)
        if WORDS[0] <= len(target.split()) <= WORDS[1] and len(source) <= LONGEST and (source, target) not in seen:
            seen.add((source, target))
            found.append((source, target, function.place))
    return found


def _rejected(targets: list[str], i: int, kind: str) -> str:
    """Returns another function's target, or target i in another order of words."""
    words = targets[i].split()
    if kind == "shuffled" and len(set(words)) > 1:
        orders = (counter.permutation(len(words), i, draw) for draw in range(DRAWS))
        return next(text for text in (" ".join(words[k] for k in order) for order in orders) if text.split() != words)
    others = counter.below(np.arange(DRAWS), len(targets) - 1, i).tolist()
    return next(text for text in (targets[(i + 1 + step) % len(targets)] for step in others) if text != targets[i])


def summary(docstring: str) -> str:
    """Returns the first paragraph of a docstring, on one line, without the call that older ones begin with ("f(x) -> int")."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if not re.match(r"[\w.]+\(.*\)(\s*->.*)?\s*$", paragraph.strip(), re.DOTALL):
            return " ".join(paragraph.split())
    return ""
