"""The same step under `jax.pmap`: every device holds the whole state and its rows of the batch, and sums go over all devices.

Equal to the step under `jax.jit` over a mesh of as many devices up to the order of sums, but for dropout: there a mask is drawn for the
whole batch, whatever the devices, here each device draws that of its rows. `jax.pmap` is kept by JAX for such code and is built on
`jax.shard_map`; nothing else of the lab depends on it.
"""

from collections.abc import Callable
from typing import Any

import jax

from decoder_lab.core.axes import AXES
from decoder_lab.parallel import mesh as meshes

AXIS = AXES[0]


def total(tree: Any) -> Any:
    """Returns the sums over all devices; for code inside `by_pmap`."""
    return jax.lax.psum(tree, AXIS)


def own_key(key: jax.Array) -> jax.Array:
    """Returns a key of its own for each device; for code inside `by_pmap`."""
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def by_pmap(step: Callable[[Any, dict], tuple[Any, dict]], mesh: jax.sharding.Mesh) -> Callable[[Any, dict], tuple[Any, dict]]:
    """Returns `step(state, batch) -> (state, metrics)` of whole states and batches split over the mesh, as `jax.jit` would take them."""
    whole = meshes.replicated(mesh)
    mapped = jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=None, devices=list(mesh.devices.flat))

    def run(state: Any, batch: dict) -> tuple[Any, dict]:
        parts = jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch)
        return jax.device_put(mapped(state, parts), whole)

    return run
