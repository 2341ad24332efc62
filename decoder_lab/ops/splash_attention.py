"""Attention by "splash", the fused kernel for TPUs that comes with JAX (jax.experimental.pallas): no weights are ever in memory.

Blocks of keys that no query of a block sees are left out. It differs from the plain form of `ops.attention` by rounding only.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from decoder_lab.core.axes import ROWS, TENSOR

LANES = 128  # of a TPU's vector unit: blocks are multiples of it
LARGEST_BLOCK = 512  # queries, or keys, that are computed at once


def splash(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array | None,
    k_segments_BS: jax.Array | None,
    *,
    causal: bool,
    window: int | None,
    scale: float,
    softcap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Returns out_BTNH; T and S are multiples of `LANES`, N of K. On a mesh each device computes its own rows and heads.

    causal: query t sees keys 0..t. window: only those less than this many rows behind; without causality there is none. A query that sees
    nothing gives numbers without meaning. interpret: without a TPU, slowly, as tests do.
    """
    run = functools.partial(_on_a_device, causal=causal, window=window, scale=scale, softcap=softcap, interpret=interpret)
    mesh = jax.typeof(q_BTNH).sharding.mesh
    sizes = mesh.shape
    if math.prod(sizes.values()) == 1:
        return run(q_BTNH, k_BSKH, v_BSKH, q_segments_BT, k_segments_BS)
    rows = tuple(name for name in ROWS if name in sizes)
    rows = rows if q_BTNH.shape[0] % math.prod(sizes[name] for name in rows) == 0 else None
    heads = TENSOR if TENSOR in sizes and k_BSKH.shape[2] % sizes[TENSOR] == 0 else None
    of_heads, of_rows = PartitionSpec(rows, None, heads), None if q_segments_BT is None else PartitionSpec(rows)
    split = jax.shard_map(run, mesh=mesh, in_specs=(*[of_heads] * 3, of_rows, of_rows), out_specs=of_heads, check_vma=False)
    return split(q_BTNH, k_BSKH, v_BSKH, q_segments_BT, k_segments_BS)


def _on_a_device(q_BTNH, k_BSKH, v_BSKH, q_segments_BT, k_segments_BS, *, causal, window, scale, softcap, interpret) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as seen

    lengths = q_BTNH.shape[1], k_BSKH.shape[1]
    if not causal:
        mask = seen.FullMask(lengths)
    elif window is None:
        mask = seen.CausalMask(lengths)
    else:
        mask = seen.LocalMask(lengths, (window - 1, 0), 0)
    q, k = (max(size for size in range(LANES, LARGEST_BLOCK + 1, LANES) if length % size == 0) for length in lengths)
    sizes = dict(block_q=q, block_kv=k, block_kv_compute=k, block_q_dkv=q, block_kv_dkv=k, block_kv_dkv_compute=k)
    kernel = kernels.make_splash_mha(
        seen.MultiHeadMask([mask] * q_BTNH.shape[2]),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=kernels.BlockSizes(**sizes, block_q_dq=q, block_kv_dq=k),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    heads_first = (x.transpose(0, 2, 1, 3) for x in (q_BTNH * jnp.asarray(scale, q_BTNH.dtype), k_BSKH, v_BSKH))
    segments = None if q_segments_BT is None else kernels.SegmentIds(q_segments_BT, k_segments_BS)
    out_BNTH = jax.vmap(kernel)(*heads_first, segments)
    return out_BNTH.transpose(0, 2, 1, 3).astype(v_BSKH.dtype)
