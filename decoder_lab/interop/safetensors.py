"""The safetensors format: tensors of a file or a directory as lazy arrays, and writing them one after another.

A file is 8 bytes (the header's length, little-endian), a JSON header {name: {"dtype", "shape", "data_offsets"}}, and the bytes of all
tensors. A directory has one file, or several with an index of which tensor lies where. Files are mapped into memory: what is not read costs
nothing, and no tensor is copied before it is asked for.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from decoder_lab.core import units
from decoder_lab.core.errors import UserError

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64,
    "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # as transformers cuts them
MOST_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclasses.dataclass(frozen=True)
class Lazy:
    """An array that is read when it is asked for (`numpy.asarray`): its shape, its dtype, and how to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.read()
        return array if dtype is None or array.dtype == dtype else array.astype(dtype)

    def __getitem__(self, rows: slice) -> "Lazy":
        """Some of its rows."""
        number = len(range(*rows.indices(self.shape[0])))
        return Lazy((number, *self.shape[1:]), self.dtype, lambda: self.read()[rows])

    @classmethod
    def of(cls, array: Any) -> "Lazy":
        """An array that is there already (of numpy or jax), copied to the host when it is read."""
        return cls(tuple(array.shape), np.dtype(array.dtype), functools.partial(np.asarray, array))


def read(path: pathlib.Path) -> dict[str, Lazy]:
    """Returns {name: array} of a file, in the order of its header. Errors: UserError where it is no such file, or is cut short."""
    header, begin = read_header(path)
    size = path.stat().st_size - begin
    mapped = functools.cache(lambda: np.memmap(path, np.uint8, "r", begin)) if size else (lambda: np.zeros(0, np.uint8))

    def cut(start: int, end: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        return mapped()[start:end].view(dtype).reshape(shape)

    found = {}
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: tensor {name} is described as {entry}, of which this program can make nothing.") from None
        if not 0 <= start <= end <= size or end - start != math.prod(shape) * dtype.itemsize:
            raise UserError(f"{path} is damaged or cut short: {name} should lie at bytes {start} to {end} of {size}. Fetch it again.")
        found[name] = Lazy(shape, dtype, functools.partial(cut, start, end, dtype, shape))
    return found


def read_header(path: pathlib.Path) -> tuple[dict[str, dict], int]:
    """Returns ({name: description}, where the tensors' bytes begin); what the writer said about the file is left out."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 2 <= length <= MOST_HEADER_BYTES else b""
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict) or len(text) != length:
        raise UserError(f"{path} is no safetensors file, or only its beginning{_pointer(path)}.")
    header.pop("__metadata__", None)
    return header, 8 + length


def _pointer(path: pathlib.Path) -> str:
    """A file of git's large file storage that was never fetched looks like a small text."""
    with open(path, "rb") as file:
        is_pointer = file.read(24).startswith(b"version https://git-lfs")
    return ": it is the pointer of Git LFS to one; fetch it with `git lfs pull`" if is_pointer else ""


def read_directory(directory: pathlib.Path) -> dict[str, Lazy]:
    """Returns {name: array} of a directory's file, or of all its shards. Errors: UserError where there are none, or one is missing."""
    if (directory / INDEX).is_file():
        places = json.loads((directory / INDEX).read_text())["weight_map"]
        files = sorted(set(places.values()))
        if missing := [name for name in files if not (directory / name).is_file()]:
            raise UserError(f"{directory}: {INDEX} names {', '.join(missing)}, which are not there. Fetch the whole directory.")
        shards = {name: read(directory / name) for name in files}
        if lost := [name for name, file in places.items() if name not in shards[file]]:
            raise UserError(f"{directory}: {INDEX} promises {', '.join(lost[:5])} ({len(lost)} in all), which its files do not have.")
        return {name: shards[file][name] for name, file in places.items()}
    if (directory / SINGLE).is_file():
        return read(directory / SINGLE)
    others = [p.name for p in sorted(directory.glob("*.bin")) + sorted(directory.glob("*.h5"))] if directory.is_dir() else []
    hint = ""
    if others:
        hint = f" It has {', '.join(others[:3])}: load it once with transformers and save it again (save_pretrained writes safetensors)."
    raise UserError(f"{directory} has no {SINGLE} and no {INDEX}.{hint}")


def write(path: pathlib.Path, tensors: Mapping[str, Lazy]) -> None:
    """Writes a file whole or not at all, one tensor in memory at a time."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
        header[name] = {"dtype": NAMES[np.dtype(array.dtype)], "shape": list(array.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".writing-{path.name}")
    with open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_directory(directory: pathlib.Path, tensors: Mapping[str, Lazy], shard_bytes: int = SHARD_BYTES) -> str:
    """Writes one file, or shards of at most `shard_bytes` with their index; returns what was written, for the user."""
    shards: list[dict[str, Lazy]] = [{}]
    filled = total = 0
    for name, array in tensors.items():
        size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
        if filled + size > shard_bytes and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][name] = array
        filled, total = filled + size, total + size
    directory.mkdir(parents=True, exist_ok=True)
    for old in [*directory.glob("model*.safetensors"), directory / INDEX]:
        old.unlink(missing_ok=True)
    if len(shards) == 1:
        write(directory / SINGLE, shards[0])
    else:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        for name, shard in zip(names, shards, strict=True):
            write(directory / name, shard)
        places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n")
    return f"{len(tensors)} tensors, {units.size(total)}, in {len(shards)} file{'s' if len(shards) > 1 else ''}"
