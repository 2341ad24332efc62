"""Attention of many heads (Vaswani et al. 2017, section 3.2): one function, several implementations by name.

| implementation | what it is | where |
|---|---|---|
| `reference` | plain einsums; the oracle of the tests, and the cheapest for single queries over a cache | everywhere |
| `blocked` | static blocks of queries over only the keys that they may see; from 1024 queries on recomputed backwards | everywhere |
| `xla` | `jax.nn.dot_product_attention` as XLA compiles it | everywhere |
| `cudnn` | the fused kernel of cuDNN | NVIDIA GPUs, 16-bit floats |
| `splash` | JAX's fused kernel in Pallas | TPUs, rows of a multiple of 128 |
| `auto` | the fastest that can do what is asked, by platform, dtype and shape (`attention_kernels.resolve`) | |

Every implementation: softmax in float32 whatever the inputs; grouped-query heads without repeating keys or values; a query with nothing to
attend gives zeros with finite (zero) gradients.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from decoder_lab.core import backend
from decoder_lab.ops import blocked_attention, masks, splash_attention, time_parallel
from decoder_lab.ops.attention_kernels import RECOMPUTE_FROM, Implementation, resolve
from decoder_lab.ops.dropout import dropout

BiasFn = Callable[[jax.Array, jax.Array], jax.Array]  # (q_positions_BT, k_positions_BS) -> bias_BNTS
ScoreFn = Callable[[jax.Array, jax.Array], jax.Array]  # (q_BTNH, k_BSNH) -> logits_BNTS

MAX_BLOCKS = 16  # blocks are unrolled: more of them cost compile time
IN_TURN = 16  # queries at a time of what stands in for a fused kernel


@dataclasses.dataclass(frozen=True)
class _Rules:
    """Which keys a query sees and with what bias; any block of the whole can be cut out of it."""

    causal: masks.Causality
    window: int | None
    q_segments_BT: jax.Array | None
    k_segments_BS: jax.Array | None
    q_positions_BT: jax.Array
    k_positions_BS: jax.Array
    bias_fn: BiasFn | None
    prefix_BT: jax.Array | None = None
    q_rows_T: jax.Array | None = None  # None: 0, 1, ...

    @property
    def later_keys_are_hidden(self) -> bool:
        """Whether no query sees a later row: then spans of keys can be left out before anything is computed."""
        return self.causal == "rows" and self.prefix_BT is None and self.q_rows_T is None

    def mask(self, queries: slice, keys: slice) -> jax.Array | None:
        """Returns mask_BTS (B may be 1) of a block, or None where everything is visible."""
        mask_BTS = None
        if self.causal == "rows":
            q_order_T = jnp.arange(queries.start, queries.stop) if self.q_rows_T is None else self.q_rows_T[queries]
            k_order_S = jnp.arange(keys.start, keys.stop)
            mask_BTS = masks.visible(q_order_T[None], k_order_S[None], window=self.window)
            if self.prefix_BT is not None:
                near_BTS = masks.visible(q_order_T[None], k_order_S[None], causal=False, window=self.window)
                mask_BTS = mask_BTS | (near_BTS & masks.both(self.prefix_BT[:, queries], self.prefix_BT[:, keys]))
        elif self.causal == "positions" or self.window is not None:
            positions = self.q_positions_BT[:, queries], self.k_positions_BS[:, keys]
            mask_BTS = masks.visible(*positions, causal=self.causal is not None, window=self.window)
        if self.q_segments_BT is not None:
            segments_BTS = masks.same_segment(self.q_segments_BT[:, queries], self.k_segments_BS[:, keys])
            mask_BTS = segments_BTS if mask_BTS is None else mask_BTS & segments_BTS
        return mask_BTS

    def bias(self, queries: slice, keys: slice) -> jax.Array | None:
        """Returns float32 bias_BNTS (B may be 1) of a block, or None."""
        if self.bias_fn is None:
            return None
        return self.bias_fn(self.q_positions_BT[:, queries], self.k_positions_BS[:, keys]).astype(jnp.float32)

    @property
    def left_to_mask(self) -> "_Rules":
        """What a fused kernel is told by a mask: row causality and its window it knows by name, and skips blocks by them."""
        return dataclasses.replace(self, causal=None, window=None) if self.later_keys_are_hidden else self

    @property
    def masks_or_biases(self) -> bool:
        """Whether `mask` or `bias` give anything."""
        return self.causal is not None or self.window is not None or self.q_segments_BT is not None or self.bias_fn is not None

    @property
    def may_be_blind(self) -> bool:
        """Whether a query with nothing to attend is possible: never under row causality alone, where each sees itself."""
        past_all_keys = self.causal is None and self.window is not None  # a window whose keys there are none of
        return self.q_segments_BT is not None or self.causal == "positions" or past_all_keys

    @property
    def beyond_segments(self) -> bool:
        """Whether more than row causality, a window by rows and segments says what is seen, and how well it fits."""
        return self.bias_fn is not None or not (self.later_keys_are_hidden or (self.causal is None and self.window is None))


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    causal: masks.Causality = "rows",
    window: int | None = None,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    q_positions_BT: jax.Array | None = None,
    k_positions_BS: jax.Array | None = None,
    prefix_BT: jax.Array | None = None,
    q_rows_T: jax.Array | None = None,
    bias_fn: BiasFn | None = None,
    score_fn: ScoreFn | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Returns out_BTNH in the dtype of the values; query head n reads key head n // (N / K).

    causal: "rows" (query t sees keys 0..t: training, prefill), "positions" (a key is seen if its position is not later: a cache) or None.
    window: only keys less than this many rows (or positions) behind; without causality as many ahead. segments: equal and not 0, see
    `masks`. positions: default 0, 1, 2...; B may be 1. prefix_BT: with causal="rows", entries that see each other both ways (prefix
    language models, Raffel et al. 2020, section 3.2.1). q_rows_T: which rows the queries are, where they are not all. bias_fn gives biases
    added to the scaled (and capped) logits. score_fn: gives logits instead of the scaled dot product. softcap c: logits become
    c tanh(logits / c). scale: default H ** -0.5.
    """
    places = q_segments_BT, k_segments_BS, q_positions_BT, k_positions_BS
    whole = q_rows_T is None and prefix_BT is None and causal != "positions" and not dropout_rate  # whose mask is drawn for whole blocks
    if whole and time_parallel.is_split(q_BTNH, k_BSKH):
        kw = dict(causal=causal, window=window, bias_fn=bias_fn, score_fn=score_fn, softcap=softcap, scale=scale)
        attend = functools.partial(attention, **kw, implementation=implementation)
        alike = bias_fn is None and score_fn is None
        return time_parallel.over_time(attend, q_BTNH, k_BSKH, v_BSKH, *places, heads_are_alike=alike)
    rules = _rules(q_BTNH, k_BSKH, causal, window, *places, bias_fn, prefix_BT, q_rows_T)
    num_queries, head_dim = q_BTNH.shape[1], q_BTNH.shape[3]
    shape = dict(num_queries=num_queries, num_keys=k_BSKH.shape[1], head_dim=head_dim, masked=rules.left_to_mask.masks_or_biases)
    asked = dict(causal=causal, softcap=softcap, dropout_rate=dropout_rate, score="scaled_dot" if score_fn is None else "another")
    asked["beyond_segments"] = rules.beyond_segments
    chosen = resolve(implementation, platform=backend.platform(), dtype=q_BTNH.dtype, **shape, **asked)
    scale = head_dim**-0.5 if scale is None else scale
    if chosen == "cudnn" and backend.is_stand_in() and prefix_BT is None:
        return _in_turn(q_BTNH, k_BSKH, v_BSKH, rules, _Score(scale, None, None))
    if chosen == "xla" or (chosen == "cudnn" and not backend.is_stand_in()):
        return _fused(q_BTNH, k_BSKH, v_BSKH, rules, scale, chosen)
    if chosen == "splash":
        by_rows = dict(causal=rules.later_keys_are_hidden, window=rules.window, scale=scale, softcap=softcap)
        out_BTNH = splash_attention.splash(q_BTNH, k_BSKH, v_BSKH, rules.q_segments_BT, rules.k_segments_BS, **by_rows)
        return _zero_where_blind(out_BTNH, rules)
    block = num_queries if chosen == "reference" else _block_size(num_queries)
    score = _Score(scale, softcap, score_fn)
    return _in_blocks(q_BTNH, k_BSKH, v_BSKH, rules, score, (dropout_rate, dropout_key), block)


def prefixed(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    k_PKH: jax.Array,
    v_PKH: jax.Array,
    *,
    causal: masks.Causality = "rows",
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    score_fn: ScoreFn | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    implementation: Implementation = "reference",
    **places: jax.Array | BiasFn | None,
) -> jax.Array:
    """Returns `attention` with P keys more that every query sees, whatever its segment or position, and that no bias touches.

    `places` are segments, positions, prefix_BT and bias_fn. Always by plain einsums. A query that sees no other key gives zeros.
    """
    del implementation
    given = {name: places.get(name) for name in ("q_segments_BT", "k_segments_BS", "q_positions_BT", "k_positions_BS")}
    rules = _rules(q_BTNH, k_BSKH, causal, window, **given, bias_fn=places.get("bias_fn"), prefix_BT=places.get("prefix_BT"))
    score = _Score(q_BTNH.shape[3] ** -0.5 if scale is None else scale, softcap, score_fn)
    everything, num_learned = (slice(0, q_BTNH.shape[1]), slice(0, k_BSKH.shape[1])), k_PKH.shape[0]

    def beside(learned_PKH, x_BSKH):
        learned_BPKH = jnp.broadcast_to(learned_PKH.astype(x_BSKH.dtype)[None], (x_BSKH.shape[0], *learned_PKH.shape))
        return jnp.concatenate([learned_BPKH, x_BSKH], axis=1).transpose(0, 2, 1, 3)

    bias_BNTS, mask_BTS = rules.bias(*everything), rules.mask(*everything)
    if bias_BNTS is not None:
        bias_BNTS = jnp.pad(bias_BNTS, ((0, 0), (0, 0), (0, 0), (num_learned, 0)))
    logits_BKGTS = score.logits(_grouped(q_BTNH, score.factor, k_BSKH.shape[2]), beside(k_PKH, k_BSKH), bias_BNTS)
    if mask_BTS is not None:
        sees_BTS = jnp.pad(mask_BTS, ((0, 0), (0, 0), (num_learned, 0)), constant_values=True)
        logits_BKGTS = jnp.where(sees_BTS[:, None, None], logits_BKGTS, masks.MASKED)
    weights_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1)
    if dropout_rate:
        weights_BKGTS = dropout(weights_BKGTS, dropout_key, dropout_rate)
    out_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", weights_BKGTS.astype(v_BSKH.dtype), beside(v_PKH, v_BSKH))
    if rules.may_be_blind:
        out_BKGTH = jnp.where(jnp.any(mask_BTS, axis=-1)[:, None, None, :, None], out_BKGTH, jnp.zeros((), out_BKGTH.dtype))
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(q_BTNH.shape)


def weights(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    *,
    causal: masks.Causality = "rows",
    window: int | None = None,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    q_positions_BT: jax.Array | None = None,
    k_positions_BS: jax.Array | None = None,
    prefix_BT: jax.Array | None = None,
    bias_fn: BiasFn | None = None,
    score_fn: ScoreFn | None = None,
    softcap: float | None = None,
    scale: float | None = None,
) -> jax.Array:
    """Returns the float32 weights_BNTS by which `attention` with the same arguments mixes the values: to be looked at, not to be fast."""
    rules = _rules(q_BTNH, k_BSKH, causal, window, q_segments_BT, k_segments_BS, q_positions_BT, k_positions_BS, bias_fn, prefix_BT)
    score = _Score(q_BTNH.shape[3] ** -0.5 if scale is None else scale, softcap, score_fn)
    everything = slice(0, q_BTNH.shape[1]), slice(0, k_BSKH.shape[1])
    mask_BTS = rules.mask(*everything)
    logits_BKGTS = score.logits(_grouped(q_BTNH, score.factor, k_BSKH.shape[2]), k_BSKH.transpose(0, 2, 1, 3), rules.bias(*everything))
    weights_BKGTS = masks.softmax(logits_BKGTS, None if mask_BTS is None else mask_BTS[:, None, None])
    return weights_BKGTS.reshape(q_BTNH.shape[0], q_BTNH.shape[2], *weights_BKGTS.shape[3:])


def _rules(
    q_BTNH, k_BSKH, causal, window, q_segments_BT, k_segments_BS, q_positions_BT, k_positions_BS, bias_fn, prefix_BT, q_rows_T=None
) -> _Rules:
    """Returns the rules of a call. Errors: ValueError where its arguments do not go together."""
    num_queries, num_keys = q_BTNH.shape[1], k_BSKH.shape[1]
    if q_BTNH.shape[2] % k_BSKH.shape[2]:
        raise ValueError(f"{q_BTNH.shape[2]} query heads cannot share {k_BSKH.shape[2]} key heads evenly")
    if (q_segments_BT is None) != (k_segments_BS is None):
        raise ValueError("segments are needed of the queries and of the keys, or of neither")
    if causal == "rows" and q_rows_T is None and num_queries != num_keys:
        raise ValueError(f'causal="rows" needs as many queries as keys, got {num_queries} and {num_keys}')
    if prefix_BT is not None and causal != "rows":
        raise ValueError(f'a prefix needs causal="rows", got {causal!r}')
    if q_positions_BT is None or k_positions_BS is None:
        q_positions_BT, k_positions_BS = jnp.arange(num_queries)[None], jnp.arange(num_keys)[None]
    return _Rules(causal, window, q_segments_BT, k_segments_BS, q_positions_BT, k_positions_BS, bias_fn, prefix_BT, q_rows_T)


@dataclasses.dataclass(frozen=True)
class _Score:
    """How well a query and a key fit: the scaled dot product, or another function."""

    scale: float
    softcap: float | None
    score_fn: ScoreFn | None

    @property
    def factor(self) -> float | None:
        """What queries are multiplied by beforehand."""
        return self.scale if self.score_fn is None else None

    def logits(self, q_BKGTH: jax.Array, k_BKSH: jax.Array, bias_BNTS: jax.Array | None) -> jax.Array:
        """Returns float32 logits_BKGTS of queries that are scaled already, with everything that may change them but the mask."""
        if self.score_fn is None:
            logits_BKGTS = jnp.einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32)
        else:
            batch, num_kv_heads, groups, num_queries, head_dim = q_BKGTH.shape
            q_BTNH = q_BKGTH.reshape(batch, -1, num_queries, head_dim).transpose(0, 2, 1, 3)
            k_BSNH = jnp.repeat(k_BKSH, groups, axis=1).transpose(0, 2, 1, 3)
            logits_BNTS = self.score_fn(q_BTNH, k_BSNH).astype(jnp.float32)
            logits_BKGTS = logits_BNTS.reshape(batch, num_kv_heads, groups, *logits_BNTS.shape[2:])
        if self.softcap is not None:
            logits_BKGTS = self.softcap * jnp.tanh(logits_BKGTS / self.softcap)
        if bias_BNTS is not None:
            logits_BKGTS += bias_BNTS.reshape(bias_BNTS.shape[0], *q_BKGTH.shape[1:3], *bias_BNTS.shape[2:])
        return logits_BKGTS


def _block_size(num_queries: int) -> int:
    """64 is the fastest on CPUs at a few hundred queries; longer sequences get larger blocks, so that their number stays bounded."""
    block = 64
    while block * MAX_BLOCKS < num_queries:
        block *= 2
    return block


def _grouped(q_BTNH: jax.Array, factor: float | None, num_kv_heads: int) -> jax.Array:
    """Returns q_BKGTH, heads before time: one transpose, and every product with it is a plain batched matrix product."""
    batch, num_queries, num_heads, head_dim = q_BTNH.shape
    scaled_BTNH = q_BTNH if factor is None else q_BTNH * factor
    return scaled_BTNH.reshape(batch, num_queries, num_kv_heads, num_heads // num_kv_heads, head_dim).transpose(0, 2, 3, 1, 4)


def _in_blocks(q_BTNH, k_BSKH, v_BSKH, rules: _Rules, score: _Score, dropout_of, block: int) -> jax.Array:
    """Attention by static blocks of `block` queries (one block of all of them is the plain form)."""
    num_queries = q_BTNH.shape[1]
    num_keys, num_kv_heads = k_BSKH.shape[1:3]
    q_BKGTH = _grouped(q_BTNH, score.factor, num_kv_heads)
    k_BKSH, v_BKSH = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)
    blocks = blocked_attention.spans(num_queries, num_keys, block, causal=rules.later_keys_are_hidden, window=rules.window)
    cuts = [(slice(start, end), slice(first, last)) for start, end, first, last in blocks]
    masks_BTS = tuple(rules.mask(*cut) for cut in cuts)
    plain = score.softcap is None and score.score_fn is None and rules.bias_fn is None and not dropout_of[0]
    if plain and block < num_queries < RECOMPUTE_FROM:
        out_BKGTH = blocked_attention.blocked(q_BKGTH, k_BKSH, v_BKSH, masks_BTS, blocks)
    else:
        outputs = []
        for cut, mask_BTS in zip(cuts, masks_BTS, strict=True):
            one_block = functools.partial(_block, rules=rules, cut=cut, score=score, dropout_of=dropout_of)
            if num_queries >= RECOMPUTE_FROM:
                one_block = jax.checkpoint(one_block)
            outputs.append(one_block(q_BKGTH[:, :, :, cut[0]], k_BKSH[:, :, cut[1]], v_BKSH[:, :, cut[1]], mask_BTS))
        out_BKGTH = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=3)
    if rules.may_be_blind:
        sees_BT = jnp.concatenate([jnp.any(mask_BTS, axis=-1) for mask_BTS in masks_BTS], axis=1)
        out_BKGTH = jnp.where(sees_BT[:, None, None, :, None], out_BKGTH, jnp.zeros((), out_BKGTH.dtype))
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(q_BTNH.shape)


def _in_turn(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, rules: _Rules, score: _Score) -> jax.Array:
    """A few queries at a time in a loop, computed again backwards: as little memory as a fused kernel, for which it stands in plans."""
    block, keys = math.gcd(q_BTNH.shape[1], IN_TURN), slice(0, k_BSKH.shape[1])
    rows_T = jnp.arange(q_BTNH.shape[1]) if rules.q_rows_T is None else rules.q_rows_T
    k_BKSH, v_BKSH = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)

    @jax.checkpoint
    def attend(start: jax.Array) -> jax.Array:
        def cut(x: jax.Array | None, axis: int = 1) -> jax.Array | None:
            return None if x is None else jax.lax.dynamic_slice_in_dim(x, start, block, axis)

        q_segments_BT, q_positions_BT = cut(rules.q_segments_BT), cut(rules.q_positions_BT)
        own = dataclasses.replace(rules, q_rows_T=cut(rows_T, 0), q_segments_BT=q_segments_BT, q_positions_BT=q_positions_BT)
        q_BKGTH, here = _grouped(cut(q_BTNH), score.factor, k_BSKH.shape[2]), (slice(0, block), keys)
        return _block(q_BKGTH, k_BKSH, v_BKSH, own.mask(*here), rules=own, cut=here, score=score, dropout_of=(0.0, None))

    out_CBKGTH = jax.lax.map(attend, jnp.arange(0, q_BTNH.shape[1], block))
    return _zero_where_blind(out_CBKGTH.transpose(1, 0, 4, 2, 3, 5).reshape(q_BTNH.shape), rules)


def _block(q_BKGTH, k_BKSH, v_BKSH, mask_BTS, *, rules: _Rules, cut: tuple[slice, slice], score: _Score, dropout_of) -> jax.Array:
    """One block, with everything that may change the logits."""
    logits_BKGTS = score.logits(q_BKGTH, k_BKSH, rules.bias(*cut))
    if mask_BTS is not None:
        logits_BKGTS = jnp.where(mask_BTS[:, None, None], logits_BKGTS, masks.MASKED)
    weights_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1)
    rate, key = dropout_of
    if rate:
        weights_BKGTS = dropout(weights_BKGTS, jax.random.fold_in(key, cut[0].start), rate)
    return jnp.einsum("BKGTS,BKSH->BKGTH", weights_BKGTS.astype(v_BKSH.dtype), v_BKSH)


def _fused(q_BTNH, k_BSKH, v_BSKH, rules: _Rules, scale, name: str) -> jax.Array:
    """`jax.nn.dot_product_attention`; row causality and its window are told apart from the mask."""
    queries, keys = slice(0, q_BTNH.shape[1]), slice(0, k_BSKH.shape[1])
    by_rows = rules.later_keys_are_hidden
    mask_BTS, bias_BNTS = rules.left_to_mask.mask(queries, keys), rules.bias(queries, keys)
    out_BTNH = jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        bias=None if bias_BNTS is None else bias_BNTS.astype(q_BTNH.dtype),
        mask=None if mask_BTS is None else mask_BTS[:, None],
        scale=scale,
        is_causal=by_rows,
        local_window_size=(rules.window - 1, 0) if by_rows and rules.window is not None else None,
        implementation=name,
    )
    return _zero_where_blind(out_BTNH, rules)


def _zero_where_blind(out_BTNH: jax.Array, rules: _Rules) -> jax.Array:
    if not rules.may_be_blind:
        return out_BTNH
    if rules.later_keys_are_hidden:  # each query sees itself but in padding
        sees_BT = rules.q_segments_BT != 0
    else:
        sees_BT = jnp.any(rules.mask(slice(0, out_BTNH.shape[1]), slice(0, rules.k_positions_BS.shape[1])), axis=-1)
    return jnp.where(sees_BT[:, :, None, None], out_BTNH, jnp.zeros((), out_BTNH.dtype))
