"""Pieces of the running interpreter's own library and the package that each is from: a classification that needs no download."""

import collections
import dataclasses
import functools

from decoder_lab.data import interpreter

FILES = 8  # a package of fewer files is left out: its validation files would be too few
LINES = 20  # of a piece
PIECES = 25  # a file gives at most, evenly spread


@dataclasses.dataclass
class Source:
    """Items {"text": consecutive lines of a file, "label": its top-level package, "path": str}.

    The split follows from the file, see `data/interpreter.py`, so that no file is in two; every label is in the training split.
    """

    split: str

    def __post_init__(self):
        self._names = interpreter.code(self.split, "python_packages")

    def __len__(self) -> int:
        return len(_pieces(tuple(self._names), labels()))

    def __getitem__(self, i: int) -> dict[str, str]:
        return dict(zip(("text", "label", "path"), _pieces(tuple(self._names), labels())[i], strict=True))

    def fingerprint(self) -> str:
        return interpreter.fingerprint(self._names, "python_packages 1", self.split, labels())


def labels() -> tuple[str, ...]:
    """Returns the packages that have enough files, and some in training."""
    return _labels(interpreter.names())


@functools.cache
def _labels(names: tuple[str, ...]) -> tuple[str, ...]:
    files = [name for name in names if name.endswith(".py") and "/" in name]
    counts = collections.Counter(name.split("/")[0] for name in files)
    trained = {name.split("/")[0] for name in interpreter.split_of(files, "train", "python_packages")}
    return tuple(sorted(package for package, count in counts.items() if count >= FILES and package in trained))


@functools.cache
def _pieces(names: tuple[str, ...], labels: tuple[str, ...]) -> list[tuple[str, str, str]]:
    found = []
    for name in names:
        if "/" not in name or name.split("/")[0] not in labels:
            continue
        lines = [line.rstrip() for line in interpreter.read(name).split("\n") if line.strip()]
        starts = range(0, max(1, len(lines) - LINES // 2), LINES)
        step = -(-len(starts) // PIECES)
        for start in starts[::step]:
            found.append(("\n".join(lines[start : start + LINES]), name.split("/")[0], f"{name}:{start}"))
    return found
