"""The device mesh: which devices there are along which named axis (`core/axes.py`), and how a batch lies on it.

Parameters lie as `parallel/layout.py` says. Models stay unaware of meshes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from decoder_lab.core.axes import AXES, ROWS, TIME
from decoder_lab.core.errors import UserError

SIZES = dict.fromkeys(AXES, 1) | {"data": -1}


def make_mesh(
    devices: Sequence[jax.Device] | None = None, *, sizes: Mapping[str, int] = SIZES, slices: int = 0, across: Sequence[str] = ("data",)
) -> Mesh:
    """Returns the mesh of these devices, by default all.

    Args:
      devices: the devices.
      sizes: of the axes; one may be -1, which takes what is left. An axis that is not named has size 1.
      slices: groups of devices with fast links inside and slow ones between; 0: as the devices say.
      across: the axes that may cross slices, those that talk least; all other axes stay inside one.
    Errors: UserError for sizes that do not make the number of devices, and axes that do not fit the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = fill(sizes, len(devices))
    groups = _slices(devices, slices)
    outer = _crossing(shape, len(groups), across)
    inner = tuple(shape[name] // outer[name] for name in AXES)
    parts = [_arranged(group, inner) for group in groups]
    blocks = np.empty((len(groups), *inner), dtype=object)
    for i, part in enumerate(parts):
        blocks[i] = part
    # [outer axes, inner axes] -> outer and inner of each axis together
    both = blocks.reshape(*outer.values(), *inner)
    order = [i for axis in range(len(AXES)) for i in (axis, len(AXES) + axis)]
    # Auto: under explicit axes Linen's Embed and partitioned parameters fail
    return Mesh(both.transpose(order).reshape(tuple(shape.values())), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def fill(sizes: Mapping[str, int], num_devices: int) -> dict[str, int]:
    """Returns the size of every axis, -1 filled in. Errors: UserError that names the nearest sizes that fit the devices."""
    sizes = dict.fromkeys(AXES, 1) | dict(sizes)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    free = [name for name, size in sizes.items() if size == -1]
    if num_devices % fixed == 0 and (free or fixed == num_devices):
        return {name: num_devices // fixed if size == -1 else size for name, size in sizes.items()}
    asked = ", ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "all 1"
    nearest = _nearest(sizes, num_devices)
    near = ", ".join(f"{name}={size}" for name, size in nearest.items() if size != 1) or "all 1"
    flags = " ".join(f"--config.mesh.{name}={size}" for name, size in nearest.items() if sizes[name] not in (-1, size))
    raise UserError(
        f"mesh: got {asked}, whose product {'does not divide' if free else 'is not'} the number of devices, {num_devices}. "
        f"The nearest that fits: {near} ({flags})."
    )


def _nearest(sizes: Mapping[str, int], num_devices: int) -> dict[str, int]:
    """Returns sizes for this many devices that differ least: each axis, innermost first, gets what it can of what was asked."""
    found, left = {}, num_devices
    for name in reversed(AXES):
        wanted = left if sizes[name] == -1 else sizes[name]
        found[name] = max(size for size in range(1, left + 1) if left % size == 0 and (size <= wanted or size == 1))
        left //= found[name]
    return {name: found[name] * (left if name == "data" else 1) for name in AXES}


def _slices(devices: list[jax.Device], slices: int) -> list[list[jax.Device]]:
    """Returns the groups of devices with fast links inside; those that the hardware tells apart, or equal consecutive ones."""
    index = [getattr(device, "slice_index", 0) for device in devices]
    found = [[d for d, i in zip(devices, index, strict=True) if i == each] for each in sorted(set(index))]
    if slices in (0, len(found)):
        return found
    if len(found) > 1 or len(devices) % slices:
        there = f"{len(found)} slices" if len(found) > 1 else f"{len(devices)} devices"
        raise UserError(f"mesh.slices: got {slices}, and there are {there}. Use 0, which takes what there is.")
    size = len(devices) // slices
    return [devices[start : start + size] for start in range(0, len(devices), size)]


def _crossing(shape: Mapping[str, int], slices: int, across: Sequence[str]) -> dict[str, int]:
    """Returns how many slices each axis crosses; their product is all. Errors: UserError where the axes that may do not suffice."""
    outer, left = dict.fromkeys(AXES, 1), slices
    for name in across:
        outer[name] = math.gcd(shape[name], left)
        left //= outer[name]
    if left > 1:
        there = ", ".join(f"{name}={shape[name]}" for name in across) or "none"
        raise UserError(
            f"mesh: the devices are {slices} slices, and the axes that may cross them ({there}) do not divide into as many. "
            f"Make one of them a multiple of {slices}, or name more in mesh.across."
        )
    return outer


def _arranged(devices: list[jax.Device], shape: tuple[int, ...]) -> np.ndarray:
    """Returns the devices of one slice as an array of this shape, neighbours near each other where the hardware says what is near."""
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def of_config(config: Any) -> Mesh:
    """Returns the mesh that a complete config asks for."""
    chosen = config.mesh
    return make_mesh(sizes={name: chosen[name] for name in AXES}, slices=chosen.slices, across=chosen.across)


def num_shares(mesh: Mesh) -> int:
    """Returns over how many groups of devices the rows of a batch are split."""
    return math.prod(mesh.shape[name] for name in ROWS if name in mesh.shape)


def share(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count) of the equal, consecutive shares of a batch's rows of which this process's devices hold one.

    Processes whose devices differ only along context and tensor hold the same share.
    Errors: UserError where the rows that a process needs are not such a share.
    """
    total = num_shares(mesh)
    own = sorted({int(i) for i in _row_index(mesh)[_of_process(mesh, jax.process_index())]})
    if own != list(range(own[0], own[0] + len(own))) or total % len(own) or own[0] % len(own):
        raise UserError(
            f"mesh: process {jax.process_index()} would need the shares {own} of {total} of a batch, which do not lie together."
        )
    return own[0] // len(own), total // len(own)


def _row_index(mesh: Mesh) -> np.ndarray:
    """Returns the share of the rows of every device, in the shape of the mesh."""
    outer = num_shares(mesh)
    return np.broadcast_to(np.arange(outer)[:, None], (outer, mesh.size // outer)).reshape(mesh.devices.shape)


def _of_process(mesh: Mesh, process: int) -> np.ndarray:
    return np.vectorize(lambda device: device.process_index == process, otypes=[bool])(mesh.devices)


def rows_spec(mesh: Mesh, shape: Sequence[int]) -> PartitionSpec:
    """Returns how an array [B, ...] of a batch lies: its rows over the row axes, axis 1, which is time, over "context" where it can."""
    rows = tuple(name for name in ROWS if name in mesh.shape)
    parts = mesh.shape.get(TIME, 1)
    if len(shape) > 1 and parts > 1 and shape[1] % parts == 0:
        return PartitionSpec(rows, TIME)
    return PartitionSpec(rows)


def replicated(mesh: Mesh) -> NamedSharding:
    """The layout of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns a batch of arrays [B, ...], B this process's share, as global arrays split over the mesh.

    Errors: UserError if the global B cannot be split evenly.
    """
    _, shares = share(mesh)
    placed = {}
    for name, array in batch.items():
        shape = (len(array) * shares, *array.shape[1:])
        check_batch_size(shape[0], mesh)
        sharding = NamedSharding(mesh, rows_spec(mesh, shape))
        placed[name] = jax.make_array_from_process_local_data(sharding, array, shape)
    return placed


def shard_whole(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns a batch of arrays [B, ...], whole in every process, as global arrays split over the mesh; each device takes its part.

    Errors: UserError if B cannot be split evenly.
    """
    placed = {}
    for name, array in batch.items():
        check_batch_size(len(array), mesh)
        sharding = NamedSharding(mesh, rows_spec(mesh, array.shape))
        placed[name] = jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
    return placed


def fetch(tree: Any, mesh: Mesh) -> Any:
    """Returns a tree of arrays as numpy arrays, whole in every process; with several all of them call it together."""
    if jax.process_count() > 1:
        far = [not (x.is_fully_addressable or x.is_fully_replicated) for x in jax.tree.leaves(tree)]
        if any(far):
            tree = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    return jax.device_get(tree)


def place(tree: Any, where: Any) -> Any:
    """Returns a tree laid out as `where`, a tree of shardings, says, as `jax.device_put` does, on devices of several processes too.

    There what only this process holds must be equal in all of them; all call it together.
    """
    return jax.device_put(tree, where) if jax.process_count() == 1 else jax.tree.map(_onto, tree, where)


def _onto(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.core.Tracer):  # only shapes are asked for
        return leaf
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_onto(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf if leaf.sharding == sharding else jax.jit(lambda x: x, out_shardings=sharding)(leaf)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns a tree whose every leaf is whole on every device; it may share memory with the tree given, so donate only one of them."""
    return jax.device_put(tree, replicated(mesh))


def check_batch_size(batch_size: int, mesh: Mesh, what: str = "batch_size") -> None:
    """Errors: UserError that names the nearest sizes that can be split evenly, if this one cannot."""
    shares = num_shares(mesh)
    if batch_size < 1 or batch_size % shares:
        below, above = batch_size // shares * shares, (max(batch_size, 0) // shares + 1) * shares
        near = " or ".join(str(size) for size in (below, above) if size > 0)
        raise UserError(f"{what} {batch_size} cannot be split over {shares} devices: take {near}.")


def describe(mesh: Mesh) -> str:
    """Returns one phrase on a mesh: "data 2 x tensor 4"."""
    return " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1) or "one device"
