"""From the fields of a Transformer, encoder or decoder, to its parts: what both build in the same way.

`fields` is the module itself: anything with the attributes of `encoders.transformer.Encoder` that a function reads.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.layers.attention import Attention
from decoder_lab.layers.cross_attention import CrossAttention
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.mixture_of_experts import MixtureOfExperts
from decoder_lab.layers.mlp import GATED, Mlp
from decoder_lab.layers.norm import Norm
from decoder_lab.layers.transformer import Block, Stack
from decoder_lab.ops import position_bias, rotary
from decoder_lab.ops.sinusoidal import sinusoidal

NUM_BUCKETS = 32  # of T5's relative positions


def head_dim(fields: Any) -> int:
    """Returns the width of a head."""
    return fields.head_dim or fields.width // fields.num_heads


def mlp_dim(fields: Any) -> int:
    """Returns the width inside the MLP."""
    if fields.mlp_dim is not None:
        return fields.mlp_dim
    return -(-8 * fields.width // 3 // 32) * 32 if fields.mlp in GATED else 4 * fields.width


def make_norm(fields: Any) -> Callable[..., Norm]:
    """Returns a maker of the norm that is used throughout."""
    return functools.partial(Norm, fields.norm, fields.use_bias, fields.norm_epsilon, fields.dtype)


def make_stack(fields: Any, *, causal: bool, cross_attention: bool) -> Stack:
    """Returns the layers; `cross_attention` says whether they can have such, which they get from the first memory that they see."""
    of_all = (fields.num_layers, fields.scan_layers, fields.remat)
    block = make_block(fields, fields.window, causal=causal, cross_attention=cross_attention)
    if not getattr(fields, "global_layers", ()):
        return Stack(block, *of_all)
    everything = make_block(fields, None, causal=causal, cross_attention=cross_attention)
    return Stack(block, *of_all, everything, tuple(fields.global_layers))


def make_block(fields: Any, window: int | None, *, causal: bool, cross_attention: bool) -> Callable[..., Block]:
    """Returns a maker of one layer whose attention has this window."""
    stddev, dtype = fields.init_stddev, fields.dtype
    out_stddev = stddev / math.sqrt(2 * fields.num_layers)  # GPT-2: keeps the residual stream's variance at depth
    shared = dict(
        num_heads=fields.num_heads,
        num_kv_heads=fields.num_kv_heads or fields.num_heads,
        head_dim=head_dim(fields),
        use_bias=fields.use_bias if fields.out_bias is None else fields.out_bias,
        qkv_bias=fields.use_bias if fields.qkv_bias is None else fields.qkv_bias,
        qk_norm=fields.qk_norm,
        norm="rms" if fields.norm == "layer" else fields.norm,
        softcap=fields.attention_softcap,
        scale=fields.attention_scale,
        score=fields.score,
        dropout=fields.attention_dropout,
        implementation=fields.attention,
        stddev=stddev,
        out_stddev=out_stddev,
        norm_epsilon=fields.norm_epsilon,
        dtype=dtype,
    )
    attention = functools.partial(Attention, **shared, window=window, causal=causal)
    cross = None
    if cross_attention:
        local = dict(window=fields.cross_window, predict_centre=fields.cross_predict_centre)
        cross = functools.partial(CrossAttention, fields.width, **shared, **local)
    mlp = functools.partial(Mlp, mlp_dim(fields), fields.mlp, fields.use_bias, stddev, out_stddev, dtype)
    if fields.num_experts:
        routing = fields.num_experts, fields.experts_per_token, fields.mlp, fields.expert_capacity, fields.expert_balance, fields.expert_z
        mlp = functools.partial(MixtureOfExperts, mlp_dim(fields), *routing, fields.use_bias, stddev, out_stddev, dtype)
    norms = make_norm(fields), fields.norm_position, fields.parallel_residual
    return functools.partial(Block, attention, mlp, *norms, fields.dropout, cross)


def make_embedding(fields: Any, num_embeddings: int) -> Embedding:
    """Returns a table of vectors as wide as the model."""
    stddev = fields.init_stddev if fields.embedding_stddev is None else fields.embedding_stddev
    return Embedding(num_embeddings, fields.width, stddev, fields.dtype)


def embed(fields: Any, table: Embedding, position_table: Embedding | None, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Returns embedded tokens with their positions, x_BTD, where positions are added at all."""
    x_BTD = table(tokens_BT)
    if fields.scale_embeddings:
        x_BTD *= math.sqrt(fields.width)
    if fields.position == "learned":
        x_BTD += position_table(positions_BT)
    elif fields.position in ("sinusoidal", "sinusoidal_paper"):
        x_BTD += sinusoidal(positions_BT, fields.width, paper=fields.position == "sinusoidal_paper").astype(fields.dtype)
    return x_BTD


def relative_positions(fields: Any, positions_BT: jax.Array, table_CN: jax.Array | None, *, bidirectional: bool) -> dict[str, Any]:
    """Returns what `layers.attention.Context` takes of positions that act inside attention: rotary tables, or a bias."""
    if fields.position == "rotary":
        tables = {"rotary_tables": rotary.tables(positions_BT, head_dim(fields), fields.rope_theta, fields.rope_scaling)}
        if getattr(fields, "local_rope_theta", None) is not None:
            tables["local_rotary_tables"] = rotary.tables(positions_BT, head_dim(fields), fields.local_rope_theta)
        return tables
    if fields.position == "alibi":
        return {"bias_kind": "alibi", "bias_table": jnp.asarray(position_bias.alibi_slopes(fields.num_heads))}
    if fields.position == "t5":
        return {"bias_kind": "t5_bidirectional" if bidirectional else "t5", "bias_table": table_CN}
    return {}
