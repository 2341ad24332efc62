"""Parameters with their layers one by one ("layer_3/mlp/up/kernel"), or stacked as by `scan_layers` ("layers/block/mlp/up/kernel")."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from decoder_lab.interop.safetensors import Lazy

STACKED = re.compile(r"(^|/)layers/block/")
SINGLE = re.compile(r"(^|/)layer_(\d+)/")


def unrolled(params: Mapping[str, Any]) -> dict[str, Lazy]:
    """Returns {path: array} with every stack cut into its layers."""
    found = {}
    for path, array in params.items():
        if STACKED.search(path) is None:
            found[path] = array if isinstance(array, Lazy) else Lazy.of(array)
            continue
        for i in range(array.shape[0]):
            one = STACKED.sub(lambda m, i=i: f"{m[1]}layer_{i}/", path)
            found[one] = Lazy(tuple(array.shape[1:]), np.dtype(array.dtype), lambda array=array, i=i: _layer(array, i))
    return found


def _layer(stack: Any, i: int) -> np.ndarray:
    return stack.read()[i] if isinstance(stack, Lazy) else np.asarray(stack[i])  # of an array on a device only what is needed comes over


def stacked_as(params: Mapping[str, Lazy], like: Mapping[str, Any]) -> dict[str, Lazy]:
    """Returns {path: array} with the layers stacked where `like` has them stacked. One stack is in memory at a time, when it is read."""
    stacks = {path for path in like if STACKED.search(path)}
    found: dict[str, Lazy] = {}
    parts: dict[str, dict[int, Lazy]] = {}
    for path, array in params.items():
        target = SINGLE.sub(lambda m: f"{m[1]}layers/block/", path)
        if target != path and target in stacks:
            parts.setdefault(target, {})[int(SINGLE.search(path)[2])] = array
        else:
            found[path] = array
    for path, layers in parts.items():
        found[path] = stack([layers[i] for i in sorted(layers)])
    return found


def stack(arrays: list[Lazy]) -> Lazy:
    """Returns one array with those given along a new first axis; one of them at a time is read beside it."""

    def read() -> np.ndarray:
        whole = np.empty((len(arrays), *arrays[0].shape), arrays[0].dtype)
        for i, array in enumerate(arrays):
            whole[i] = np.asarray(array)
        return whole

    return Lazy((len(arrays), *arrays[0].shape), arrays[0].dtype, read)
