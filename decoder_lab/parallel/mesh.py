"""The device mesh and what lies where on it: data parallelism over all local devices. Other axes get their names here."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from decoder_lab.core.errors import UserError

DATA = "data"


def make_mesh() -> Mesh:
    """Returns a mesh of all devices on one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every leaf on every device."""
    return jax.device_put(tree, replicated(mesh))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Cuts a batch's rows over the devices. Errors: UserError where they don't divide evenly."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    size = len(next(iter(batch.values()))) * jax.process_count()
    if size % mesh.size:
        near = max(size // mesh.size, 1) * mesh.size
        raise UserError(f"batch_size: {size} rows cannot be cut evenly over {mesh.size} devices; {near} or {near + mesh.size} can.")
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
