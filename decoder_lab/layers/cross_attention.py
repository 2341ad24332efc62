"""Attention from a decoder to what an encoder has read, whose keys and values are worked out once a source."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.attention import Context, Score, score_fn, sow_weights
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.norm import Kind, Norm
from decoder_lab.ops import alignment, masks
from decoder_lab.ops import attention as ops
from decoder_lab.ops.dropout import dropout


class CrossAttention(nn.Module):
    """Queries from x_BTD, keys and values from `context.memory` (Vaswani et al. 2017, section 3.2.3).

    Padding of the memory is read by nobody, but must be finite (`Memory.without_padding`). Where a row of it holds several documents
    (segments 1, 2, ...), target document k reads memory document k, else every target reads the whole row. A target with nothing to read
    gets zeros (and the bias of `out`), with finite gradients. No positions enter but by a window. The weights_BNTS are sown as "weights"
    where the collection "attention" is mutable.

    window: D of local attention (Luong et al. 2015, section 3.2): only keys within D of the target's own position (local-m), or with
    `predict_centre` of one that each head predicts from the target, with a Gaussian around it (local-p, always by plain einsums).
    """

    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    use_bias: bool = True
    qkv_bias: bool = True
    qk_norm: bool = False
    norm: Kind = "rms"  # of queries and keys
    softcap: float | None = None
    scale: float | None = None
    score: Score = "scaled_dot"
    dropout: float = 0.0
    implementation: ops.Implementation = "auto"
    stddev: float = 0.02
    out_stddev: float = 0.02
    norm_epsilon: float = 1e-5
    window: int | None = None
    predict_centre: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        heads = functools.partial(Linear, use_bias=self.qkv_bias, stddev=self.stddev, dtype=self.dtype)
        self.query = heads(self.num_heads * self.head_dim)
        self.key = heads(self.num_kv_heads * self.head_dim)
        self.value = heads(self.num_kv_heads * self.head_dim)
        self.out = Linear(self.width, self.use_bias, self.out_stddev, self.dtype)
        if self.qk_norm:
            self.query_norm, self.key_norm = (Norm(self.norm, epsilon=self.norm_epsilon, dtype=self.dtype) for _ in range(2))
        self._score_fn = score_fn(self, self.score, self.num_heads, self.head_dim)
        if self.window is not None and self.predict_centre:
            self.centre = Linear(self.num_heads * self.head_dim, False, self.stddev, self.dtype)
            self.centre_vector = self.param("centre_vector", normal(self.head_dim**-0.5), (self.num_heads, self.head_dim), jnp.float32)

    def prepare(self, values_BSD: jax.Array) -> dict[str, jax.Array]:
        """Returns {"key", "value"}, each BKSH in the compute dtype: laid out as products read them, for every step of decoding."""
        k_BSKH, v_BSKH = (x.reshape(*x.shape[:2], self.num_kv_heads, self.head_dim) for x in (self.key(values_BSD), self.value(values_BSD)))
        k_BSKH = self.key_norm(k_BSKH) if self.qk_norm else k_BSKH
        return {"key": k_BSKH.transpose(0, 2, 1, 3), "value": v_BSKH.transpose(0, 2, 1, 3)}

    def __call__(self, x_BTD: jax.Array, context: Context, prepared: dict[str, jax.Array] | None = None) -> jax.Array:
        """Returns out_BTD; without `prepared` keys and values are worked out here."""
        memory = context.memory
        prepared = self.prepare(memory.values_BSD) if prepared is None else prepared
        q_BTNH = self.query(x_BTD).reshape(*x_BTD.shape[:2], self.num_heads, self.head_dim)
        q_BTNH = self.query_norm(q_BTNH) if self.qk_norm else q_BTNH
        q_segments_BT = jnp.ones(x_BTD.shape[:2], jnp.int32) if context.q_segments_BT is None else context.q_segments_BT
        q_segments_BT, k_segments_BS = masks.readable(q_segments_BT, memory.segments_BS)
        # BSKH, a transpose that attention's own undoes
        k_BSKH, v_BSKH = (prepared[name].transpose(0, 2, 1, 3) for name in ("key", "value"))
        rules = dict(
            causal=None,
            q_segments_BT=q_segments_BT,
            k_segments_BS=k_segments_BS,
            softcap=self.softcap,
            scale=self.scale,
            score_fn=self._score_fn,
        )
        random = {}
        if self.dropout and not context.deterministic:
            random = {"dropout_rate": self.dropout, "dropout_key": self.make_rng("dropout")}
        if self.window is not None and self.predict_centre:
            weights_fn = functools.partial(ops.weights, q_BTNH, k_BSKH, **rules)
            weights_BNTS = self._around_a_centre(x_BTD, weights_fn, q_segments_BT, k_segments_BS)
            sow_weights(self, lambda: weights_BNTS)
            if random:
                weights_BNTS = dropout(weights_BNTS, random["dropout_key"], self.dropout)
            v_BSNH = jnp.repeat(v_BSKH, self.num_heads // self.num_kv_heads, axis=2)
            out_BTNH = jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS.astype(v_BSNH.dtype), v_BSNH)
        else:
            if self.window is not None:
                rules |= dict(window=self.window + 1, q_positions_BT=context.q_positions_BT)
                rules["k_positions_BS"] = masks.positions_in_segments(k_segments_BS)
            out_BTNH = ops.attention(q_BTNH, k_BSKH, v_BSKH, **rules, **random, implementation=self.implementation)
            sow_weights(self, functools.partial(ops.weights, q_BTNH, k_BSKH, **rules))
        return self.out(out_BTNH.reshape(*x_BTD.shape[:2], self.num_heads * self.head_dim))

    def _around_a_centre(self, x_BTD, weights_fn, q_segments_BT, k_segments_BS) -> jax.Array:
        """Returns float32 weights_BNTS within the window around each head's predicted centre (Luong et al. 2015, equations 9 and 10)."""
        hidden_BTNH = jnp.tanh(self.centre(x_BTD)).reshape(*x_BTD.shape[:2], self.num_heads, self.head_dim)
        logits_BNT = jnp.einsum("BTNH,NH->BNT", hidden_BTNH.astype(jnp.float32), self.centre_vector)
        lengths_BT = jnp.sum(masks.same_segment(q_segments_BT, k_segments_BS), axis=-1)
        centre_BNT = alignment.predicted_centre(logits_BNT, lengths_BT)
        k_positions_BS = masks.positions_in_segments(k_segments_BS)
        near_BNTS = alignment.local_window(centre_BNT, k_positions_BS, self.window)
        weights_BNTS = weights_fn(bias_fn=lambda *_: jnp.where(near_BNTS, 0.0, masks.MASKED))
        return weights_BNTS * alignment.gaussian(centre_BNT, k_positions_BS, self.window)
