"""What lies in a folder of weights, without its config, its code or its devices: a run, a checkpoint, a file or directory of safetensors.

Only names, shapes and dtypes are read, so that a file of any size takes a moment.
"""

import json
import math
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from decoder_lab.checkpoint import snapshot
from decoder_lab.core import units
from decoder_lab.core.errors import UserError
from decoder_lab.interop import safetensors

Array = tuple[str, str, tuple[int, ...]]  # path, dtype, shape


def described(path: pathlib.Path, checkpoint: str = "latest", every: bool = False) -> str:
    """Returns the tree of a path as text: one line an array with dtype, shape and bytes, and what all take.

    Args:
      path: a run's folder, a folder of checkpoints, one checkpoint, a .safetensors file, or a directory with such.
      checkpoint: which of several: "latest" or a step.
      every: a line for each layer; otherwise arrays that differ only in a number of their path share one.
    Errors: UserError where it is nothing of these.
    """
    title, arrays, notes = _opened(pathlib.Path(path), checkpoint)
    lines = [title, *notes, *_table(arrays if every else _grouped(arrays))]
    size = sum(_bytes(dtype, shape) for _, dtype, shape in arrays)
    count = sum(math.prod(shape) for *_, shape in arrays)
    lines.append(f"{len(arrays):,} arrays, {count:,} numbers, {units.size(size)}")
    tops = dict.fromkeys(name.split("/")[0] for name, *_ in arrays)
    if len(tops) > 1 and all("/" in name for name, *_ in arrays):
        for top in tops:
            inside = [(dtype, shape) for name, dtype, shape in arrays if name.split("/")[0] == top]
            held = units.size(sum(_bytes(*array) for array in inside))
            lines.append(f"  {top}: {sum(math.prod(shape) for _, shape in inside):,} numbers, {held}")
    return "\n".join(lines)


def _opened(path: pathlib.Path, checkpoint: str) -> tuple[str, list[Array], list[str]]:
    """Returns (what it is, its arrays, lines about it)."""
    if not path.exists():
        raise UserError(f"there is nothing at {path.absolute()}.")
    if path.is_file():
        return f"{path}: safetensors", _of_tensors(safetensors.read(path)), []
    if (path / safetensors.SINGLE).is_file() or (path / safetensors.INDEX).is_file():
        return f"{path}: directory of safetensors", _of_tensors(safetensors.read_directory(path)), _config_lines(path)
    if found := sorted(path.glob("*.safetensors")):
        tensors = {name: array for file in found for name, array in safetensors.read(file).items()}
        return f"{path}: {', '.join(file.name for file in found)}", _of_tensors(tensors), _config_lines(path)
    if (path / snapshot.RECORD).is_file():
        return _checkpoint(path)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
    if not steps:
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
        raise UserError(f"{path.absolute()} is no run, checkpoint, or directory of safetensors; it holds {inside}.")
    chosen = steps[-1] if checkpoint in ("latest", "") else int(checkpoint) if checkpoint.isdecimal() else None
    if chosen not in steps:
        raise UserError(f'{folder} holds no checkpoint {checkpoint}. Known: {", ".join(map(str, steps))}, "latest".')
    title, arrays, notes = _checkpoint(folder / str(chosen))
    return title, arrays, [f"steps there: {', '.join(map(str, steps))}", *notes]


def _checkpoint(path: pathlib.Path) -> tuple[str, list[Array], list[str]]:
    try:
        record = snapshot.read_record(path)
    except snapshot.Damaged as damage:
        raise UserError(f"checkpoint {path} is damaged: {damage}") from None
    arrays = [(name, dtype, tuple(shape)) for name, (dtype, shape) in record["arrays"].items()]
    notes = [f"{name}: {value:.6g}" for name, value in record["metrics"].items()]
    return f"{path}: checkpoint of step {record['step']}", arrays, notes


def _of_tensors(tensors: dict[str, safetensors.Lazy]) -> list[Array]:
    return [(name, str(np.dtype(array.dtype)), array.shape) for name, array in tensors.items()]


def _config_lines(path: pathlib.Path) -> list[str]:
    file = path / "config.json"
    if not file.is_file():
        return []
    config = json.loads(file.read_text(encoding="utf-8"))
    return [f"{name}: {config[name]}" for name in ("model_type", "architectures") if name in config]


def _grouped(arrays: Iterable[Array]) -> list[Array]:
    """Returns the arrays with those of all layers in one line: "layer_#/mlp/up/kernel (12)"."""
    groups: dict[tuple, list[str]] = {}
    for name, dtype, shape in arrays:
        groups.setdefault((re.sub(r"\d+", "#", name), dtype, shape), []).append(name)
    return [(f"{name} ({len(of)})" if len(of) > 1 else of[0], dtype, shape) for (name, dtype, shape), of in groups.items()]


def _table(arrays: list[Array]) -> list[str]:
    width = max((len(name) for name, *_ in arrays), default=0)
    return [
        f"  {name:{width}}  {dtype:9} {'x'.join(map(str, shape)) or 'scalar':>16}  {units.size(_bytes(dtype, shape)):>9}"
        for name, dtype, shape in arrays
    ]


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
