"""Which device holds what. One axis so far: "data", over which every batch is split while parameters are copied to every device.

Another axis (sharded parameters, tensors) is a name in `AXES` and a rule here for what is laid out along it; models stay unaware of meshes.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from decoder_lab.core.errors import UserError

DATA = "data"
AXES = (DATA,)


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of these devices, by default all; its "data" axis has them all."""
    devices = jax.devices() if devices is None else devices
    # Auto: under explicit axes Linen's Embed and partitioned parameters fail
    return jax.make_mesh((len(devices),), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def split(mesh: Mesh) -> NamedSharding:
    """The layout of a batch: axis 0 over the "data" axis."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """The layout of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns a batch of arrays [B, ...], B this process's share, as global arrays split along B.

    Errors: UserError if the global B cannot be split evenly.
    """
    local = {name: len(array) for name, array in batch.items()}
    for size in set(local.values()):
        check_batch_size(size * jax.process_count(), mesh)
    sharding = split(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Returns a tree whose every leaf is whole on every device; it may share memory with the tree given, so donate only one of them."""
    return jax.device_put(tree, replicated(mesh))


def check_batch_size(batch_size: int, mesh: Mesh, what: str = "batch_size") -> None:
    """Errors: UserError that names the nearest sizes that can be split evenly, if this one cannot."""
    devices = mesh.shape[DATA]
    if batch_size < 1 or batch_size % devices:
        below, above = batch_size // devices * devices, (max(batch_size, 0) // devices + 1) * devices
        near = " or ".join(str(size) for size in (below, above) if size > 0)
        raise UserError(f"{what} {batch_size} cannot be split over {devices} devices: take {near}.")
