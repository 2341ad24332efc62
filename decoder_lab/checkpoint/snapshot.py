"""One checkpoint on disk: a directory that is complete and intact, or not believed.

    200/arrays/            Orbax's: every array of the state, as a nested dict keyed by the parts of its path
    200/checkpoint.json    step, metrics, meta, each array's dtype and shape, each file's size and CRC-32, its own CRC-32

A checkpoint is written under a temporary name. When Orbax has finished, every file is flushed to the disk, the record is written last, and
the directory gets its real name by one rename: a kill or a full disk at any moment leaves the temporary name, which nobody reads. Of
several processes each writes the pieces of arrays that it holds, and flushes and sums up the files that it wrote; process 0 the record.
"""

import json
import math
import os
import pathlib
import re
import zlib
from typing import Any

import jax
import numpy as np

from decoder_lab.core import tree

FORMAT = 1
ARRAYS = "arrays"
RECORD = "checkpoint.json"
CHUNK_BYTES = 1 << 22


class Damaged(Exception):
    """A checkpoint whose files are not the ones that were written; the text says which and how."""


def arrays_of(state: Any) -> dict[str, Any]:
    """Returns {path: array} of a state: typed keys as their key data, Python numbers as numpy scalars of their own kind."""
    return {path: _as_array(leaf) for path, leaf in tree.flatten(state).items()}


def start(directory: pathlib.Path, arrays: dict[str, Any]) -> Any:
    """Starts writing the arrays and returns Orbax's response; `.result()` waits for it and raises what went wrong.

    Returns once the arrays are safe from being donated or changed in place.
    """
    from orbax.checkpoint import v1 as ocp

    stored = {path: np.array(a) if isinstance(a, np.ndarray) else a for path, a in arrays.items() if a.size}  # Orbax refuses empty arrays
    return ocp.save_async(directory / ARRAYS, tree.nest(stored or {"none": np.zeros(1)}))


def flush(directory: pathlib.Path, process: int = 0, count: int = 1) -> dict[str, list[int]]:
    """Makes the files durable that this one of `count` processes wrote; returns {name: [size, CRC-32]} of them."""
    files = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        name = path.relative_to(directory).as_posix()
        writer = int(found[1]) if (found := re.search(r"process_(\d+)", name)) else 0
        if (writer if writer < count else 0) == process:
            files[name] = [path.stat().st_size, _checksum(path)]
            _flush_to_disk(path)
    return files


def seal(
    directory: pathlib.Path, final: pathlib.Path, arrays: dict[str, tuple[str, list[int]]], files: dict[str, list[int]], **about: Any
) -> None:
    """Writes the record and gives the checkpoint its real name. `arrays` is {path: (dtype, shape)}, `files` what `flush` returned."""
    record = dict(format=FORMAT, **about, arrays=arrays, files=files)
    with open(directory / RECORD, "w", encoding="utf-8") as f:
        json.dump(record | {"checksum": _record_checksum(record)}, f)
        f.flush()
        os.fsync(f.fileno())
    for path in [p for p in directory.rglob("*") if p.is_dir()] + [directory]:
        _flush_to_disk(path)
    os.rename(directory, final)
    _flush_to_disk(final.parent)


def read_record(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the record without looking at the other files. Errors: Damaged when it is missing or cannot be read."""
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged(f"{RECORD} is missing") from None
    except (OSError, ValueError) as error:
        raise Damaged(f"{RECORD} cannot be read ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise Damaged(f"{RECORD} is not of format {FORMAT}")
    if record.pop("checksum", None) != _record_checksum(record):
        raise Damaged(f"{RECORD} has other contents than were written")
    return record


def check(directory: pathlib.Path, process: int = 0, count: int = 1) -> dict[str, Any]:
    """Returns the record after comparing every file with it, byte by byte, or one in `count` of them. Errors: Damaged."""
    record = read_record(directory)
    for name, (size, checksum) in list(record["files"].items())[process::count]:
        path = directory / name
        try:
            got = path.stat().st_size
            if got != size:
                raise Damaged(f"{name} has {got} bytes of {size}")
            if _checksum(path) != checksum:
                raise Damaged(f"{name} has other contents than were written")
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from None
    return record


def load(directory: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns {path: array} for the wanted paths, each as what is wanted: a numpy array, or a jax array with the sharding asked for.

    `wanted` holds numpy arrays or `jax.ShapeDtypeStruct`s of the stored shapes and dtypes; what it does not name is not read.
    """
    from orbax.checkpoint import v1 as ocp

    stored = {path: leaf for path, leaf in wanted.items() if math.prod(leaf.shape)}
    loaded = {}
    if stored:
        context = ocp.Context()
        context.pytree_options.loading.partial_load = True
        with context:
            loaded = tree.flatten(ocp.load(directory / ARRAYS, tree.nest(stored)))
    return {path: loaded[path] if path in loaded else _empty(leaf) for path, leaf in wanted.items()}


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key (or the shape of one)."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def form(array: Any) -> tuple[str, list[int]]:
    """Returns (dtype, shape) as they stand in the record."""
    return str(np.dtype(array.dtype)), list(array.shape)


def _as_array(leaf: Any) -> Any:
    if is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _empty(leaf: Any) -> Any:
    zeros = np.zeros(leaf.shape, leaf.dtype)
    return zeros if isinstance(leaf, np.ndarray) else jax.device_put(zeros, leaf.sharding)


def _record_checksum(record: dict[str, Any]) -> int:
    """CRC-32 of the JSON text, which reading and writing again does not change."""
    return zlib.crc32(json.dumps(record).encode())


def _checksum(path: pathlib.Path) -> int:
    value = 0
    with open(path, "rb") as f:
        while chunk := f.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def _flush_to_disk(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
