"""The running interpreter's own library as documents: its files, and each help topic of pydoc (prose of the language reference)."""

import dataclasses
import functools
import hashlib

from decoder_lab.data import interpreter

TOPICS = "pydoc_data/topics/"


@dataclasses.dataclass
class Source:
    """Items {"text": str, "path": str}; about 90% of the documents are for training, 5% each for validation and test."""

    split: str

    def __post_init__(self):
        self._names = interpreter.split_of([*interpreter.names(), *_topics()], self.split, "python_stdlib")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> dict[str, str]:
        name = self._names[i]
        return {"text": _topics()[name] if name.startswith(TOPICS) else interpreter.read(name), "path": name}

    def fingerprint(self) -> str:
        names = [name for name in self._names if not name.startswith(TOPICS)]
        topics = hashlib.sha256(repr(sorted(_topics().items())).encode()).hexdigest()
        return interpreter.fingerprint(names, "python_stdlib 1", topics, self.split)


@functools.cache
def _topics() -> dict[str, str]:
    try:
        from pydoc_data import topics
    except ImportError:  # some distributions ship pydoc's data apart
        return {}
    return {TOPICS + name: text for name, text in topics.topics.items()}
