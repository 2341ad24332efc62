"""Functions of the running interpreter's own library and what their docstrings say of them: summaries that need no download."""

import dataclasses
import functools
import inspect
import re

import numpy as np

from decoder_lab.data import counter, interpreter

LONGEST = 2000  # characters of a function
WORDS = (3, 60)  # of a summary


@dataclasses.dataclass
class Source:
    """Items {"source": a function without its docstring, "target": the docstring's first paragraph, on one line, "path": str}.

    The split follows from the file, see `data/interpreter.py`. Of functions that are equal in both the first is taken.

    Attributes:
      rejected: whether an item has "chosen", its target, and "rejected", the target of another function, drawn by the item's number.
    """

    split: str
    rejected: bool = False

    def __post_init__(self):
        self._names = interpreter.code(self.split, "python_docstrings")

    def __len__(self) -> int:
        return len(_pairs(tuple(self._names)))

    def __getitem__(self, i: int) -> dict[str, str]:
        pairs = _pairs(tuple(self._names))
        item = dict(zip(("source", "target", "path"), pairs[i], strict=True))
        if not self.rejected:
            return item
        others = ((i + 1 + int(step)) % len(pairs) for step in counter.below(np.arange(len(pairs)), len(pairs) - 1, i))
        return {**item, "chosen": item["target"], "rejected": next(pairs[j][1] for j in others if pairs[j][1] != item["target"])}

    def fingerprint(self) -> str:
        version = "python_docstrings 1" + (" rejected" if self.rejected else "")
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


def summary(docstring: str) -> str:
    """Returns the first paragraph of a docstring, on one line, without the call that older ones begin with ("f(x) -> int")."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if not re.match(r"[\w.]+\(.*\)(\s*->.*)?\s*$", paragraph.strip(), re.DOTALL):
            return " ".join(paragraph.split())
    return ""
