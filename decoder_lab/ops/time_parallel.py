"""Attention whose rows are shared by the devices of a mesh axis, "context", in time: each has its queries and gets all keys and values.

The gather is small beside what long rows take otherwise: K heads for each N of the queries, and no weights are ever sent. XLA by itself
would move every block of queries that `ops/attention.py` cuts out of the whole.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from decoder_lab.core.axes import TIME


def is_split(q_BTNH: jax.Array, k_BSKH: jax.Array) -> bool:
    """Whether a mesh splits time and queries and keys can be cut into as many equal pieces."""
    parts = jax.typeof(q_BTNH).sharding.mesh.shape.get(TIME, 1)
    return parts > 1 and q_BTNH.shape[1] % parts == 0 and k_BSKH.shape[1] % parts == 0


def over_time(
    attend: Callable,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array | None,
    k_segments_BS: jax.Array | None,
    q_positions_BT: jax.Array | None,
    k_positions_BS: jax.Array | None,
) -> jax.Array:
    """Returns `attend` of all these (by name), where each device computes what its queries get; it is told their numbers, q_rows_T."""
    rows_T = jnp.arange(q_BTNH.shape[1])
    if q_positions_BT is None or k_positions_BS is None:
        q_positions_BT, k_positions_BS = rows_T[None], jnp.arange(k_BSKH.shape[1])[None]
    of_queries = dict(q_segments_BT=q_segments_BT, q_positions_BT=q_positions_BT)
    of_keys = dict(k_segments_BS=k_segments_BS, k_positions_BS=k_positions_BS)

    def local(q_BTNH, k_BSKH, v_BSKH, q_rows_T, of_queries, of_keys):
        k_BSKH, v_BSKH, of_keys = jax.tree.map(lambda x: jax.lax.all_gather(x, TIME, axis=1, tiled=True), (k_BSKH, v_BSKH, of_keys))
        return attend(q_BTNH, k_BSKH, v_BSKH, q_rows_T=q_rows_T, **of_queries, **of_keys)

    in_time = PartitionSpec(None, TIME)
    specs = (in_time, in_time, in_time, PartitionSpec(TIME), in_time, in_time)
    mesh = jax.typeof(q_BTNH).sharding.mesh
    split = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=in_time, axis_names={TIME})
    return split(q_BTNH, k_BSKH, v_BSKH, rows_T, of_queries, of_keys)
