"""Multi-head, grouped-query and multi-query self-attention, with or without a cache."""

import functools
import typing
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from decoder_lab.core.errors import UserError, unknown
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.memory import Memory
from decoder_lab.layers.norm import Kind, Norm
from decoder_lab.ops import alignment, position_bias, rotary
from decoder_lab.ops import attention as ops

PREFIX = ("prefix_key", "prefix_value")  # learned [P, K, H] that every query reads besides, where an adapter put them

Score = Literal["scaled_dot", "dot", "general", "additive", "concat"]


@struct.dataclass
class Context:
    """What the layers of one call share. Queries are the T entries of this call, keys those plus, with a cache, everything written
    before."""

    q_positions_BT: jax.Array
    k_positions_BS: jax.Array
    q_segments_BT: jax.Array | None = None
    k_segments_BS: jax.Array | None = None
    rotary_tables: tuple[jax.Array, jax.Array] | None = None  # sin_BTP, cos_BTP
    local_rotary_tables: tuple[jax.Array, jax.Array] | None = None  # of layers with a window, where they have their own
    bias_table: jax.Array | None = None  # ALiBi's slopes_N, or T5's table_CN
    bias_kind: Literal["alibi", "t5", "t5_bidirectional"] | None = struct.field(pytree_node=False, default=None)
    index: jax.Array | None = None  # scalar: where in the cache this call writes; None without a cache
    prefix_BT: jax.Array | None = None  # not 0: entries of this call that see each other in both directions
    memory: Memory | None = None  # what cross-attention reads
    everywhere: jax.Array | None = None  # scalar: whether this one of scanned layers sees beyond its window; None: no layer does
    deterministic: bool = struct.field(pytree_node=False, default=True)  # no dropout

    @property
    def bias_fn(self) -> ops.BiasFn | None:
        if self.bias_kind is None:
            return None
        kinds = {
            "alibi": position_bias.alibi,
            "t5": position_bias.t5,
            "t5_bidirectional": functools.partial(position_bias.t5, bidirectional=True),
        }
        return functools.partial(kinds[self.bias_kind], self.bias_table)


class Attention(nn.Module):
    """Self-attention over x_BTD, or over a cache into which this call's keys and values are written first; causal, or in both directions.

    Its weights_BNTS are sown as "weights" where the collection "attention" is mutable (over a cache, S is all that it has room for).

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
    norm: Kind = "rms"  # of queries and keys
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None  # of the products; None: head_dim ** -0.5
    score: Score = "scaled_dot"
    causal: bool = True
    dropout: float = 0.0
    implementation: ops.Implementation = "auto"
    stddev: float = 0.02
    out_stddev: float = 0.02
    norm_epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: dict | None = None, layer: jax.Array | None = None
    ) -> tuple[jax.Array, dict | None]:
        batch, length, width = x_BTD.shape

        def heads(name: str, num: int) -> jax.Array:
            projected = Linear(num * self.head_dim, self.qkv_bias, self.stddev, self.dtype, name=name)(x_BTD)
            return projected.reshape(batch, length, num, self.head_dim)

        q_BTNH, k_BTKH, v_BTKH = heads("query", self.num_heads), heads("key", self.num_kv_heads), heads("value", self.num_kv_heads)
        if self.qk_norm:
            q_BTNH = Norm(self.norm, epsilon=self.norm_epsilon, dtype=self.dtype, name="query_norm")(q_BTNH)
            k_BTKH = Norm(self.norm, epsilon=self.norm_epsilon, dtype=self.dtype, name="key_norm")(k_BTKH)
        if (tables := _rotary_tables(self.window, context)) is not None:
            q_BTNH, k_BTKH = (rotary.rotate(x, *tables) for x in (q_BTNH, k_BTKH))
        rules = dict(
            softcap=self.softcap,
            scale=self.scale,
            bias_fn=context.bias_fn,
            score_fn=score_fn(self, self.score, self.num_heads, self.head_dim),
        )
        attend = functools.partial(ops.attention, **rules, implementation=self.implementation)
        if self.has_variable("params", PREFIX[0]):
            attend = functools.partial(_prefixed, [self.get_variable("params", name) for name in PREFIX], rules)
        attend, weights = (_within(self.window, context.everywhere, f) for f in (attend, functools.partial(ops.weights, **rules)))
        if cache is None:
            random = {}
            if self.dropout and not context.deterministic:
                random = {"dropout_rate": self.dropout, "dropout_key": self.make_rng("dropout")}
            among = _among_rows(context, self.causal)
            out_BTNH = attend(q_BTNH, k_BTKH, v_BTKH, **among, **random)
            sow_weights(self, functools.partial(weights, q_BTNH, k_BTKH, **among))
        else:
            if not self.causal:
                raise ValueError("a cache is for causal attention: an encoder reads everything at once")
            cache = {
                "key": _write(cache["key"], k_BTKH, context.index, layer),
                "value": _write(cache["value"], v_BTKH, context.index, layer),
            }
            out_BTNH = _over_cache(attend, context, q_BTNH, k_BTKH, v_BTKH, cache, layer)
            sow_weights(self, lambda: weights(q_BTNH, _read(cache["key"], layer), **_among_cached(context)))
        out_BTF = out_BTNH.reshape(batch, length, self.num_heads * self.head_dim)
        return Linear(width, self.use_bias, self.out_stddev, self.dtype, name="out")(out_BTF), cache


def _rotary_tables(window: int | None, context: Context) -> tuple[jax.Array, jax.Array] | None:
    """Returns the tables of a layer: its own, where layers with a window have such and it keeps to its window."""
    if window is None or context.local_rotary_tables is None:
        return context.rotary_tables
    if context.everywhere is None:
        return context.local_rotary_tables
    return jax.tree.map(functools.partial(jnp.where, context.everywhere), context.rotary_tables, context.local_rotary_tables)


def _within(window: int | None, everywhere: jax.Array | None, attend_fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns `attend_fn` with the window, or where only the running layer knows whether it has one, either of two compiled forms."""
    if window is None or everywhere is None:
        return functools.partial(attend_fn, window=window)

    def either(*arrays: jax.Array, **rules: Any) -> jax.Array:
        forms = (functools.partial(attend_fn, window=size, **rules) for size in (None, window))
        return jax.lax.cond(everywhere, *forms, *arrays)

    return either


def _prefixed(learned: list[jax.Array], rules: dict, q_BTNH, k_BSKH, v_BSKH, **among) -> jax.Array:
    """Attention that also reads learned keys and values."""
    return ops.prefixed(q_BTNH, k_BSKH, v_BSKH, *learned, **rules, **among)


def score_fn(module: nn.Module, kind: Score, num_heads: int, head_dim: int) -> ops.ScoreFn | None:
    """Returns a score of `ops.alignment` for heads, with what it learns as parameters of `module`; None is the scaled dot product.

    "additive" and "concat" hold B T S N H values: for short sequences.
    """

    def learned(name: str, *shape: int) -> jax.Array:
        return module.param(f"score_{name}", normal(head_dim**-0.5), (num_heads, *shape), jnp.float32)

    match kind:
        case "scaled_dot":
            return None
        case "dot":
            return alignment.dot
        case "general":
            return functools.partial(alignment.general, kernel=learned("kernel", head_dim, head_dim))
        case "additive":
            return functools.partial(alignment.additive, v=learned("vector", head_dim))
        case "concat":
            kernel, vector = learned("kernel", 2 * head_dim, head_dim), learned("vector", head_dim)
            return functools.partial(alignment.concat, kernel=kernel, v=vector)
        case _:
            raise UserError(unknown("attention score", kind, typing.get_args(Score)))


def sow_weights(module: nn.Module, weights_fn) -> None:
    """Sows weights_fn() as "weights" into the collection "attention" where the caller made it mutable; nothing is computed otherwise."""
    if module.is_mutable_collection("attention") and not module.is_initializing():
        module.sow("attention", "weights", weights_fn())


def _among_rows(context: Context, causal: bool) -> dict:
    """Rules of attention among the entries of this call."""
    return dict(
        causal="rows" if causal else None,
        q_segments_BT=context.q_segments_BT,
        k_segments_BS=context.q_segments_BT,
        q_positions_BT=context.q_positions_BT,
        k_positions_BS=context.q_positions_BT,
        prefix_BT=context.prefix_BT,
    )


def _among_cached(context: Context) -> dict:
    """Rules of attention of this call's entries to all that the cache holds."""
    return dict(
        causal="positions",
        q_segments_BT=context.q_segments_BT,
        k_segments_BS=context.k_segments_BS,
        q_positions_BT=context.q_positions_BT,
        k_positions_BS=context.k_positions_BS,
    )


def _over_cache(attend, context: Context, q_BTNH, k_BTKH, v_BTKH, cache: dict, layer) -> jax.Array:
    """Attention over all that the cache holds. A first write (prefill) needs only itself, which is far less than the whole cache."""

    def everything(q_BTNH, k_BTKH, v_BTKH):
        del k_BTKH, v_BTKH  # they are in the cache already
        plain = functools.partial(attend, implementation="reference")
        return plain(q_BTNH, _read(cache["key"], layer), _read(cache["value"], layer), **_among_cached(context))

    if q_BTNH.shape[1] == 1:
        return everything(q_BTNH, k_BTKH, v_BTKH)
    only_itself = functools.partial(attend, **_among_rows(context, causal=True))
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
