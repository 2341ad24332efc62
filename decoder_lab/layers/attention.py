"""Multi-head, grouped-query and multi-query self-attention, with or without a cache."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from decoder_lab.layers.linear import Linear
from decoder_lab.layers.norm import Norm
from decoder_lab.ops import attention as ops
from decoder_lab.ops import position_bias, rotary


@struct.dataclass
class Context:
    """What the layers of one call share. Queries are the T entries of this call, keys those plus, with a cache, everything written
    before."""

    q_positions_BT: jax.Array
    k_positions_BS: jax.Array
    q_segments_BT: jax.Array | None = None
    k_segments_BS: jax.Array | None = None
    rotary_tables: tuple[jax.Array, jax.Array] | None = None  # sin_BTP, cos_BTP
    bias_table: jax.Array | None = None  # ALiBi's slopes_N, or T5's table_CN
    bias_kind: Literal["alibi", "t5"] | None = struct.field(pytree_node=False, default=None)
    index: jax.Array | None = None  # scalar: where in the cache this call writes; None without a cache

    @property
    def bias_fn(self) -> ops.BiasFn | None:
        if self.bias_kind is None:
            return None
        return functools.partial({"alibi": position_bias.alibi, "t5": position_bias.t5}[self.bias_kind], self.bias_table)


class Attention(nn.Module):
    """Self-attention over x_BTD, or over a cache into which this call's keys and values are written first.

    The cache is {"key", "value"}, each [B, K, S, H] in the compute dtype (as products read it: a cache with the heads last would be
    transposed whole for every token), or [B, L, K, S, H] with `layer` the layer to use. The caller sees to it that index + T <= S: XLA
    moves a write that would not fit.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    use_bias: bool = True
    qkv_bias: bool = True
    qk_norm: bool = False
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0
    implementation: ops.Implementation = "auto"
    stddev: float = 0.02
    out_stddev: float = 0.02
    norm_epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: dict | None = None, layer: jax.Array | None = None, deterministic: bool = True
    ) -> tuple[jax.Array, dict | None]:
        batch, length, width = x_BTD.shape

        def heads(name: str, num: int) -> jax.Array:
            projected = Linear(num * self.head_dim, self.qkv_bias, self.stddev, self.dtype, name=name)(x_BTD)
            return projected.reshape(batch, length, num, self.head_dim)

        q_BTNH, k_BTKH, v_BTKH = heads("query", self.num_heads), heads("key", self.num_kv_heads), heads("value", self.num_kv_heads)
        if self.qk_norm:
            q_BTNH = Norm("rms", epsilon=self.norm_epsilon, dtype=self.dtype, name="query_norm")(q_BTNH)
            k_BTKH = Norm("rms", epsilon=self.norm_epsilon, dtype=self.dtype, name="key_norm")(k_BTKH)
        if context.rotary_tables is not None:
            q_BTNH, k_BTKH = (rotary.rotate(x, *context.rotary_tables) for x in (q_BTNH, k_BTKH))
        attend = functools.partial(
            ops.attention, window=self.window, softcap=self.softcap, bias_fn=context.bias_fn, implementation=self.implementation
        )
        if cache is None:
            random = {}
            if self.dropout and not deterministic:
                random = {"dropout_rate": self.dropout, "dropout_key": self.make_rng("dropout")}
            out_BTNH = _over_rows(functools.partial(attend, **random), context, q_BTNH, k_BTKH, v_BTKH)
        else:
            cache = {
                "key": _write(cache["key"], k_BTKH, context.index, layer),
                "value": _write(cache["value"], v_BTKH, context.index, layer),
            }
            out_BTNH = _over_cache(attend, context, q_BTNH, k_BTKH, v_BTKH, cache, layer)
        out_BTF = out_BTNH.reshape(batch, length, self.num_heads * self.head_dim)
        return Linear(width, self.use_bias, self.out_stddev, self.dtype, name="out")(out_BTF), cache


def _over_rows(attend, context: Context, q_BTNH, k_BTKH, v_BTKH) -> jax.Array:
    """Attention among the entries of this call."""
    segments_BT, positions_BT = context.q_segments_BT, context.q_positions_BT
    return attend(
        q_BTNH,
        k_BTKH,
        v_BTKH,
        causal="rows",
        q_segments_BT=segments_BT,
        k_segments_BS=segments_BT,
        q_positions_BT=positions_BT,
        k_positions_BS=positions_BT,
    )


def _over_cache(attend, context: Context, q_BTNH, k_BTKH, v_BTKH, cache: dict, layer) -> jax.Array:
    """Attention over all that the cache holds. A first write (prefill) needs only itself, which is far less than the whole cache."""

    def everything(q_BTNH, k_BTKH, v_BTKH):
        del k_BTKH, v_BTKH  # they are in the cache already
        return functools.partial(attend, implementation="reference")(
            q_BTNH,
            _read(cache["key"], layer),
            _read(cache["value"], layer),
            causal="positions",
            q_segments_BT=context.q_segments_BT,
            k_segments_BS=context.k_segments_BS,
            q_positions_BT=context.q_positions_BT,
            k_positions_BS=context.k_positions_BS,
        )

    if q_BTNH.shape[1] == 1:
        return everything(q_BTNH, k_BTKH, v_BTKH)
    only_itself = functools.partial(_over_rows, attend, context)
    return jax.lax.cond(context.index == 0, only_itself, everything, q_BTNH, k_BTKH, v_BTKH)


def _write(cache: jax.Array, new_BTKH: jax.Array, index: jax.Array, layer: jax.Array | None) -> jax.Array:
    new_BKTH = new_BTKH.astype(cache.dtype).transpose(0, 2, 1, 3)
    zero = jnp.zeros((), index.dtype)
    if layer is None:
        return jax.lax.dynamic_update_slice(cache, new_BKTH, (zero, zero, index, zero))
    return jax.lax.dynamic_update_slice(cache, new_BKTH[:, None], (zero, layer, zero, index, zero))


def _read(cache: jax.Array, layer: jax.Array | None) -> jax.Array:
    """Returns the cache as BSKH, a transpose that attention's own undoes."""
    cache_BKSH = cache if layer is None else jax.lax.dynamic_index_in_dim(cache, layer, axis=1, keepdims=False)
    return cache_BKSH.transpose(0, 2, 1, 3)
