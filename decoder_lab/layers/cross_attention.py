"""Attention from a decoder to what an encoder has read, whose keys and values are worked out once a source."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.attention import Context, Score, score_fn, sow_weights
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.norm import Kind, Norm
from decoder_lab.ops import attention as ops
from decoder_lab.ops import masks


class CrossAttention(nn.Module):
    """Queries from x_BTD, keys and values from `context.memory` (Vaswani et al. 2017, section 3.2.3).

    Padding of the memory is read by nobody, but must be finite (`Memory.without_padding`). Where a row of it holds several documents
    (segments 1, 2, ...), target document k reads memory document k, else every target reads the whole row. A target with nothing to read
    gets zeros (and the bias of `out`), with finite gradients. No positions enter. The weights_BNTS are sown as "weights" where the
    collection "attention" is mutable.
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
        out_BTNH = ops.attention(q_BTNH, k_BSKH, v_BSKH, **rules, **random, implementation=self.implementation)
        sow_weights(self, functools.partial(ops.weights, q_BTNH, k_BSKH, **rules))
        return self.out(out_BTNH.reshape(*x_BTD.shape[:2], self.num_heads * self.head_dim))
