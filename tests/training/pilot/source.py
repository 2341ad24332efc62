"""Sentences of random words; the label says which of two words is the more frequent. Deterministic in the split and the item."""

import dataclasses

import numpy as np

SIZES = {"train": 203, "validation": 61, "test": 10}


@dataclasses.dataclass
class Source:
    """Items {"id", "text", "label"}."""

    split: str
    scale: int = 1

    def __len__(self):
        return SIZES[self.split] * self.scale

    def __getitem__(self, i):
        rng = np.random.default_rng([i, len(self.split)])
        words = rng.choice(["ab", "cd", "e"], size=rng.integers(1, 14), p=(0.4, 0.4, 0.2)).tolist()
        return {"id": i, "text": " ".join(words), "label": "first" if words.count("ab") > words.count("cd") else "other"}

    def fingerprint(self):
        return f"pilot {self.split} {self.scale}"
