"""The features of every example of a split, memory-mapped: what a task made of the raw items, worked out once.

An example is a dict of features: arrays whose axis 0 is the example's own length (ragged; further axes fixed), or of rank 0. Each ragged
feature is one flat array with the examples end to end; features that always have the same lengths share their offsets. On disk integers
take the fewest bytes that hold them, and so do floats that are small whole numbers (weights, masks); they are given back as int32 and
float32.
"""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import cache

INDEX = "index"  # the raw item's number in the split, of every row of a batch; -1 in rows that only fill it up
SEQUENCES = ("tokens", "source")  # what a model reads: their lengths count however equal they are, unlike those of a vector of labels
BUFFER_VALUES = 1 << 20
DTYPES = {"i": "int32", "u": "int32", "b": "int32", "f": "float32"}  # NumPy's kind of what a task gives -> dtype of batches


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of E examples: values [N, ...] end to end with offsets int64 [E+1], or of rank 0, [E], without offsets."""

    values: np.ndarray
    dtype: np.dtype
    offsets: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Shard:
    """The examples of one source.

    Attributes:
      features: name -> Feature; those with equal lengths hold the same offsets object.
      index_E: int32, the raw item of each example.
      num_items: raw items of the source.
      remarks: what the task said of them, text -> how often.
      key: name of the cache entry; "" for examples that live in memory only.
    """

    features: dict[str, Feature]
    index_E: np.ndarray
    num_items: int
    remarks: dict[str, int] = dataclasses.field(default_factory=dict)
    key: str = ""


class Examples:
    """The examples of one or several sources, with one running number e over all of them.

    Attributes:
      shards: one a source.
      weights: share of each in training, by examples, in any unit; None for the proportions that they come in.
      fixed: name -> length, of the features that are equally long in every example (a vector of labels): they are never padded.
    """

    def __init__(self, shards: Sequence[Shard], weights: Sequence[float] | None = None):
        self.shards, self.weights = list(shards), weights
        self.sizes = [len(s.index_E) for s in self.shards]
        self.ends = np.cumsum(self.sizes)
        self.first_item = np.cumsum([0] + [s.num_items for s in self.shards])
        self.key = " ".join(s.key for s in self.shards)
        names = {tuple(s.features) for s in self.shards}
        if len(names) > 1:
            raise ValueError(f"the parts of a mixture have different features: {sorted(names)}")
        self.names = names.pop()
        self.ragged = [n for n in self.names if self.shards[0].features[n].offsets is not None]
        self.fixed = {}
        for name in self.ragged:
            lengths_E = self.lengths(name)
            if lengths_E.min() == lengths_E.max():
                self.fixed[name] = int(lengths_E[0])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def num_items(self) -> int:
        return int(self.first_item[-1])

    def lengths(self, name: str) -> np.ndarray:
        """Returns the lengths int64 [E] of a ragged feature."""
        return np.concatenate([np.diff(s.features[name].offsets) for s in self.shards])

    @functools.cached_property
    def fixed_width(self) -> int:
        """Length of what a model reads and that is equally long in all examples, `SEQUENCES`; 0 where there is no such."""
        return max((self.fixed[n] for n in SEQUENCES if n in self.fixed), default=0)

    @functools.cached_property
    def longest_E(self) -> np.ndarray:
        """int64, the length of each example's longest feature: of those that are not equally long in all, else of what a model reads."""
        names = [n for n in self.ragged if n not in self.fixed] or [n for n in SEQUENCES if n in self.fixed] or self.ragged
        lengths = {tuple(id(shard.features[n].offsets) for shard in self.shards): n for n in names}  # features may share them
        return functools.reduce(np.maximum, [self.lengths(n) for n in lengths.values()], np.zeros(len(self), np.int64))

    def take(self, e_B: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Returns a batch of examples: ragged features [B, width, ...] padded with zeros, and `index` int32 [B].

        e_B: numbers of examples; -1 is a row of zeros whose index is -1.
        """
        e_B = np.asarray(e_B, np.int64)
        if len(self.shards) == 1:
            return self._take(0, e_B, widths)
        batch: dict[str, np.ndarray] = {}
        shard_B = np.where(e_B < 0, 0, np.searchsorted(self.ends, e_B, side="right"))
        for s in np.unique(shard_B).tolist():
            place_b = np.flatnonzero(shard_B == s)
            taken = self._take(s, np.where(e_B < 0, -1, e_B - (self.ends[s] - self.sizes[s]))[place_b], widths)
            for name, value in taken.items():
                batch.setdefault(name, np.zeros((len(e_B), *value.shape[1:]), value.dtype))[place_b] = value
        return batch

    def _take(self, shard: int, e_B: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
        features, index_E = self.shards[shard].features, self.shards[shard].index_E
        real_B, safe_B = e_B >= 0, np.maximum(e_B, 0)
        places: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        batch = {}
        for name, feature in features.items():
            tail = feature.values.shape[1:]
            if feature.offsets is None:
                values = feature.values[safe_B].astype(feature.dtype)
                batch[name] = np.where(real_B.reshape(-1, *[1] * len(tail)), values, np.zeros((), feature.dtype))
                continue
            same = (id(feature.offsets), widths[name])
            if same not in places:
                places[same] = _places(feature.offsets, safe_B, real_B, widths[name])
            source_N, target_N = places[same]
            padded = np.zeros((len(e_B) * widths[name], *tail), feature.dtype)
            padded[target_N] = feature.values[source_N]
            batch[name] = padded.reshape(len(e_B), widths[name], *tail)
        batch[INDEX] = np.where(real_B, index_E[safe_B] + self.first_item[shard], -1).astype(np.int32)
        return batch


def _places(offsets: np.ndarray, e_B: np.ndarray, real_B: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every value of these examples its place in the flat array and in the padded batch [B * width]."""
    start_B = offsets[e_B]
    length_B = np.where(real_B, offsets[e_B + 1] - start_B, 0)
    if length_B.size and length_B.max() > width:
        raise ValueError(f"an example of length {length_B.max()} does not fit into {width}")
    before_B = np.cumsum(length_B) - length_B
    count_N = np.arange(int(length_B.sum()))
    return count_N + np.repeat(start_B - before_B, length_B), count_N + np.repeat(np.arange(len(e_B)) * width - before_B, length_B)


def in_memory(found: Iterable[Mapping[str, Any]]) -> Examples:
    """Makes Examples of feature dicts, item i giving example i, without a file."""
    writer = _Writer(None)
    number = -1
    for number, example in enumerate(found):
        writer.add(example, number)
    return Examples([Shard(writer.features(), np.asarray(writer.index, np.int32), number + 1)])


def cached(fingerprints: Mapping[str, object], source: Any, task: Any, label: str, progress: Callable[[str], None] = cache.silent) -> Shard:
    """Returns the examples that a task makes of a source, from the cache where they are in it.

    Args:
      fingerprints: everything that shapes them.
      task: `example(raw)` gives a dict, a list of dicts, or [] to leave the item out. Where it has a dict `counts`, it may count in it
        what it had to do ({"texts cut to 100 tokens": n}); that is said to the user, and remembered.
    Errors: UserError where no example is left.
    """

    def write(path: pathlib.Path) -> dict:
        return _write(path, source, task, label, progress)

    path, facts = cache.entry("examples", fingerprints, write, progress)
    offsets = [np.memmap(path / f"offsets_{i}.bin", np.int64, "r").view(np.ndarray) for i in range(facts["num_offsets"])]
    features = {}
    for name, about in facts["features"].items():
        values = np.zeros((0, *about["tail"]), about["stored"])
        if about["count"]:
            values = np.memmap(path / f"{name}.bin", about["stored"], "r").view(np.ndarray).reshape(-1, *about["tail"])
        features[name] = Feature(values, np.dtype(about["dtype"]), None if about["offsets"] is None else offsets[about["offsets"]])
    index_E = np.memmap(path / "index.bin", np.int32, "r").view(np.ndarray)
    return Shard(features, index_E, facts["num_items"], facts["remarks"], path.name)


def _write(path: pathlib.Path, source: Any, task: Any, label: str, progress: Callable[[str], None]) -> dict:
    start = told = time.monotonic()
    writer, total, dropped = _Writer(path), len(source), 0
    counts = getattr(task, "counts", None)
    if counts is not None:
        counts.clear()
    for i in range(total):
        try:
            made = task.example(source[i])
        except UserError as error:
            raise UserError(f"item {i} of {label}: {error}") from error
        made = [made] if isinstance(made, Mapping) else made
        dropped += not made
        for example in made:
            writer.add(example, i)
        now = time.monotonic()
        if now - told > cache.PROGRESS_SECONDS:
            told = now
            progress(f"preparing {label}: {i + 1:,} of {total:,} items, {(now - start) / (i + 1) * (total - i - 1):,.0f} s left")
    if not writer.index:
        raise UserError(f"{label}: of {total:,} items the task kept none as an example. Look at its settings for what is left out.")
    remarks = {**(counts or {}), **({"items left out": dropped} if dropped else {})}
    progress(f"prepared {label}: {total:,} items, {len(writer.index):,} examples in {time.monotonic() - start:.1f} s")
    return dict(num_items=total, remarks=remarks, **writer.finish())


class _Writer:
    """Takes examples one by one; holds them in memory, or spills them into files of a folder."""

    def __init__(self, folder: pathlib.Path | None):
        self.folder, self.index = folder, []
        self._held: dict[str, list[np.ndarray]] = {}
        self._lengths: dict[str, list[int]] = {}
        self._about: dict[str, dict] = {}
        self._num_held = 0

    def add(self, example: Mapping[str, Any], item: int) -> None:
        if self.index and example.keys() != self._about.keys():
            raise ValueError(f"item {item}: the task gave features {sorted(example)}, those before had {sorted(self._about)}")
        self.index.append(item)
        for name, given in example.items():
            value = np.asarray(given)
            dtype, shape = DTYPES.get(value.dtype.kind), (value.shape[1:], value.ndim)
            about = self._about.setdefault(name, dict(dtype=None, shape=shape, low=0, high=0, whole=True))
            if value.size:  # an empty array says nothing of its dtype
                about["dtype"] = about["dtype"] or dtype
            if about["shape"] != shape or dtype is None or (value.size and about["dtype"] != dtype):
                before = f"{about['dtype']}{list(about['shape'][0])} of rank {about['shape'][1]}"
                raise ValueError(f"item {item}: feature {name} is {value.dtype}{list(value.shape)}, expected {before} as in those before")
            self._held.setdefault(name, []).append(value if value.ndim else value[None])
            self._lengths.setdefault(name, []).append(len(value) if value.ndim else 1)
            self._num_held += value.size
        if self._num_held > BUFFER_VALUES and self.folder is not None:
            self._spill()

    def _spill(self) -> None:
        for name, held in self._held.items():
            about, block = self._about[name], self._block(name, held)
            if block.size:
                about["low"], about["high"] = min(about["low"], block.min().item()), max(about["high"], block.max().item())
                about["whole"] = about["whole"] and bool((block == np.rint(block)).all())
            with open(self.folder / f"{name}.raw", "ab") as file:
                file.write(block.tobytes())
        self._held, self._num_held = {}, 0

    def _block(self, name: str, held: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(held).astype(self._about[name]["dtype"] or "int32")

    def _offsets(self) -> tuple[list[np.ndarray], dict[str, int | None]]:
        """Returns the distinct offsets, and for each feature which of them are its own (None for rank 0)."""
        distinct: list[np.ndarray] = []
        chosen: dict[str, int | None] = {}
        for name, lengths in self._lengths.items():
            if not self._about[name]["shape"][1]:
                chosen[name] = None
                continue
            offsets = np.cumsum([0, *lengths], dtype=np.int64)
            equal = [i for i, other in enumerate(distinct) if np.array_equal(other, offsets)]
            if not equal:
                distinct.append(offsets)
            chosen[name] = equal[0] if equal else len(distinct) - 1
        return distinct, chosen

    def features(self) -> dict[str, Feature]:
        distinct, chosen = self._offsets()
        found = {}
        for name, held in self._held.items():
            block, i = self._block(name, held), chosen[name]
            found[name] = Feature(block, block.dtype, None if i is None else distinct[i])
        return found

    def finish(self) -> dict:
        """Writes what is held, narrows every file, and returns what `cached` needs to read them."""
        self._spill()
        distinct, chosen = self._offsets()
        digest = hashlib.sha256()
        for i, offsets in enumerate(distinct):
            offsets.tofile(self.folder / f"offsets_{i}.bin")
            digest.update(offsets.tobytes())
        np.asarray(self.index, np.int32).tofile(self.folder / "index.bin")
        features = {}
        for name, about in self._about.items():
            dtype, (tail, _) = about["dtype"] or "int32", about["shape"]
            stored, raw = _narrowest(dtype, about), self.folder / f"{name}.raw"
            count = raw.stat().st_size // np.dtype(dtype).itemsize
            with open(self.folder / f"{name}.bin", "wb") as file:
                values = np.memmap(raw, dtype, "r") if count else np.zeros(0, dtype)
                for start in range(0, count, BUFFER_VALUES):
                    block = values[start : start + BUFFER_VALUES].astype(stored).tobytes()
                    digest.update(block)
                    file.write(block)
            del values
            raw.unlink()
            features[name] = dict(dtype=dtype, stored=stored, tail=list(tail), offsets=chosen[name], count=count)
        return dict(features=features, num_offsets=len(distinct), sha256=digest.hexdigest())


def _narrowest(dtype: str, about: Mapping[str, Any]) -> str:
    """Returns the smallest dtype that holds all values of a feature."""
    if about["whole"] and about["low"] >= 0 and math.isfinite(about["high"]):
        for small in ("uint8", "uint16"):
            if about["high"] <= np.iinfo(small).max:
                return small
    return dtype


def fingerprint(source: Any, task: Any, facts: Any) -> dict[str, Any]:
    """Returns everything that shapes the examples that a task makes of a source, JSON-like."""
    tokenizers = {}
    for name in ("tokenizer", "source_tokenizer"):
        if (tokenizer := getattr(task, name, None)) is not None:
            tokenizers[name] = [tokenizer.fingerprint(), tokenizer.eos_id]
    found = dict(source=source.fingerprint(), task=task.fingerprint(), length=getattr(task, "length", None), facts=facts, **tokenizers)
    return json.loads(json.dumps(found))
