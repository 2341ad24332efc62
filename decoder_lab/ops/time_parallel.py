"""Attention whose rows are shared by the devices of a mesh axis, "context", in time: each has its queries and gets all keys and values.

The gather is small beside what long rows take otherwise: K heads for each N of the queries, and no weights are ever sent. XLA by itself
would move every block of queries that `ops/attention.py` cuts out of the whole.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from decoder_lab.core.axes import ROWS, TENSOR, TIME


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
    *,
    heads_are_alike: bool,
) -> jax.Array:
    """Returns `attend` of all these (by name), where each device computes what its queries get; it is told their numbers, q_rows_T.

    heads_are_alike: `attend` knows nothing of single heads, so that some of them can be computed alone.
    """
    rows_T = jnp.arange(q_BTNH.shape[1])
    if q_positions_BT is None or k_positions_BS is None:
        q_positions_BT, k_positions_BS = rows_T[None], jnp.arange(k_BSKH.shape[1])[None]
    of_queries = dict(q_segments_BT=q_segments_BT, q_positions_BT=q_positions_BT)
    of_keys = dict(k_segments_BS=k_segments_BS, k_positions_BS=k_positions_BS)

    def local(q_BTNH, k_BSKH, v_BSKH, q_rows_T, of_queries, of_keys):
        k_BSKH, v_BSKH, of_keys = jax.tree.map(lambda x: jax.lax.all_gather(x, TIME, axis=1, tiled=True), (k_BSKH, v_BSKH, of_keys))
        return attend(q_BTNH, k_BSKH, v_BSKH, q_rows_T=q_rows_T, **of_queries, **of_keys)

    mesh = jax.typeof(q_BTNH).sharding.mesh
    of_heads, of_rows, whole_rows = _specs(mesh.shape, q_BTNH.shape, k_BSKH.shape[2] if heads_are_alike else 1)
    of_places = [
        {name: None if x is None else of_rows if len(x) > 1 else whole_rows for name, x in d.items()} for d in (of_queries, of_keys)
    ]
    split = jax.shard_map(local, mesh=mesh, in_specs=(*[of_heads] * 3, PartitionSpec(TIME), *of_places), out_specs=of_heads)
    return split(q_BTNH, k_BSKH, v_BSKH, rows_T, of_queries, of_keys)


def _specs(sizes: Mapping[str, int], shape: tuple[int, ...], num_kv_heads: int) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec]:
    """Returns how [B, T, N, H], [B, T] and [1, T] are shared: rows and heads too, where they can be."""
    rows = tuple(name for name in ROWS if name in sizes)
    rows = rows if shape[0] % math.prod(sizes[name] for name in rows) == 0 else None
    heads = TENSOR if num_kv_heads % sizes.get(TENSOR, 1) == 0 and TENSOR in sizes else None
    return PartitionSpec(rows, TIME, heads), PartitionSpec(rows, TIME), PartitionSpec(None, TIME)
