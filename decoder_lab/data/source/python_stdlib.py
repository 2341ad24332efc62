"""The running interpreter's own library: about 11 MB of code and prose that every machine has, so that nothing must be downloaded.

Documents are its .py, .txt and .rst files, and each help topic of pydoc (prose of the language reference) as one of its own. Left out:
tests, installed packages, and what the build of this interpreter generated. A file's split follows from a hash of its relative path.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import sysconfig

from decoder_lab.core.errors import UserError
from decoder_lab.data import files

EXCLUDED_FOLDERS = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib-dynload")
EXCLUDED_FILES = ("_sysconfigdata", "topics.py")  # a machine's own paths; and the topics, which are taken one by one
SUFFIXES = (".py", ".txt", ".rst")
TOPICS = "pydoc_data/topics/"
PERCENT = dict(validation=(0, 5), test=(5, 10), train=(10, 100))  # of the hash's range


@dataclasses.dataclass
class Source:
    """Items {"text": str, "path": str}; about 90% of the documents are for training, 5% each for validation and test."""

    split: str

    def __post_init__(self):
        if self.split not in PERCENT:
            raise UserError(f"source python_stdlib: split is {self.split}, expected one of {', '.join(files.SPLITS)}.")
        self._root = pathlib.Path(sysconfig.get_paths()["stdlib"])

    @functools.cached_property
    def _names(self) -> list[str]:
        low, high = PERCENT[self.split]
        names = sorted(name for name in [*_files(self._root), *_topics()] if low <= _percentile(name) < high)
        if not names:
            raise UserError(f"source python_stdlib: {self._root} holds no source files; use another source, such as text.")
        return names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> dict[str, str]:
        name = self._names[i]
        if name.startswith(TOPICS):
            return {"text": _topics()[name], "path": name}
        return {"text": (self._root / name).read_bytes().decode("utf-8"), "path": name}

    def fingerprint(self) -> str:
        paths = [self._root / name for name in self._names if not name.startswith(TOPICS)]
        return files.fingerprint(paths, "python_stdlib 1", hashlib.sha256(repr(sorted(_topics().items())).encode()).hexdigest(), self.split)


def _percentile(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100


@functools.cache
def _topics() -> dict[str, str]:
    try:
        from pydoc_data import topics
    except ImportError:  # some distributions ship pydoc's data apart
        return {}
    return {TOPICS + name: text for name, text in topics.topics.items()}


@functools.cache
def _files(root: pathlib.Path) -> list[str]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in EXCLUDED_FOLDERS)
        paths = [pathlib.Path(folder, n) for n in names if n.endswith(SUFFIXES) and not n.startswith(EXCLUDED_FILES)]
        found += [p.relative_to(root).as_posix() for p in paths if p.stat().st_size and _is_utf8(p)]
    return found


def _is_utf8(path: pathlib.Path) -> bool:
    """A few old files declare another encoding; they are not read as something that they are not."""
    head = path.open("rb").read(256)
    return b"coding:" not in head or b"utf-8" in head.lower()
