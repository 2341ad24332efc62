"""Rows of a table that lies in pieces: each device looks up what it has, and only what was found is sent, never the table.

XLA by itself gathers the table, or copies all activations to all devices, where rows of the batch and columns of the table share an axis.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from decoder_lab.parallel import mesh as meshes


def look_up(table_VD: jax.Array, indices_BT: jax.Array, mesh: Mesh, rows: tuple[str, ...], columns: tuple[str, ...]) -> jax.Array:
    """Returns vectors_BTD, rows over the row axes; NaN for an index out of range, as `layers.embedding.Embedding` gives it.

    rows, columns: the mesh axes over which the table is in pieces. B must be divisible by the devices that share the rows of a batch.
    Vocabulary-parallel (Shoeybi et al. 2019, section 3): each device knows a range of the rows, zeros stand for all others, and a sum over
    the axis puts them together. Pieces of columns are looked up for the rows of all devices on the axis and exchanged.
    """
    num_rows = table_VD.shape[0]

    def local(table_VD: jax.Array, indices_BT: jax.Array) -> jax.Array:
        for axis in columns:
            indices_BT = jax.lax.all_gather(indices_BT, axis, axis=0, tiled=True)
        indices_BT = jnp.where(indices_BT < 0, indices_BT + num_rows, indices_BT)
        first = jax.lax.axis_index(rows) * table_VD.shape[0] if rows else 0
        own_BT = (indices_BT >= first) & (indices_BT < first + table_VD.shape[0])
        vectors_BTD = jnp.take(table_VD, jnp.where(own_BT, indices_BT - first, 0), axis=0, mode="clip")
        vectors_BTD = jnp.where(own_BT[..., None], vectors_BTD, 0.0)
        if rows:
            vectors_BTD = jax.lax.psum(vectors_BTD, rows)
        known_BT = (indices_BT >= 0) & (indices_BT < num_rows)
        vectors_BTD = jnp.where(known_BT[..., None], vectors_BTD, jnp.nan)
        for axis in columns:
            vectors_BTD = jax.lax.all_to_all(vectors_BTD, axis, split_axis=0, concat_axis=2, tiled=True)
        return vectors_BTD

    batch = meshes.rows_spec(mesh, indices_BT.shape)
    table = PartitionSpec(rows or None, columns or None)
    return jax.shard_map(local, mesh=mesh, in_specs=(table, batch), out_specs=batch)(table_VD, indices_BT)
