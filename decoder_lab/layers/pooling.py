"""One vector for a row of vectors. Padding counts for nothing; a row of nothing but padding gives zeros, with finite (zero) gradients.

All take values_BSD in any float dtype and segments_BS int32 (0 is padding, which may stand anywhere and hold anything), work in float32 and
return pooled_BD in the dtype of the values. Several documents in one row are pooled together.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.linear import Linear
from decoder_lab.ops import masks

Kind = Literal["mean", "max", "first", "last", "attention", "max_mean"]


def mean(values_BSD: jax.Array, segments_BS: jax.Array) -> jax.Array:
    """The mean of the real positions."""
    count_B = jnp.sum(segments_BS != 0, axis=1, dtype=jnp.float32)
    total_BD = jnp.sum(_real(values_BSD, segments_BS), axis=1)
    return (total_BD / jnp.maximum(count_B, 1.0)[:, None]).astype(values_BSD.dtype)


def maximum(values_BSD: jax.Array, segments_BS: jax.Array) -> jax.Array:
    """The largest value of every feature over the real positions (max-over-time pooling of Collobert et al. 2011, Kim 2014)."""
    real_BS = segments_BS != 0
    # not in float32: a maximum rounds nothing
    lowest = jnp.asarray(jnp.finfo(values_BSD.dtype).min, values_BSD.dtype)
    top_BD = jnp.max(jnp.where(real_BS[..., None], values_BSD, lowest), axis=1)
    return jnp.where(jnp.any(real_BS, axis=1)[:, None], top_BD, jnp.zeros((), values_BSD.dtype))


def first(values_BSD: jax.Array, segments_BS: jax.Array) -> jax.Array:
    """The first real position."""
    return _at(values_BSD, segments_BS, jnp.argmax(segments_BS != 0, axis=1))


def last(values_BSD: jax.Array, segments_BS: jax.Array) -> jax.Array:
    """The last real position."""
    return _at(values_BSD, segments_BS, segments_BS.shape[1] - 1 - jnp.argmax(segments_BS[:, ::-1] != 0, axis=1))


def weighted(values_BSD: jax.Array, segments_BS: jax.Array, logits_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (pooled_BD, float32 weights_BS): the mean under the softmax of the logits over the real positions."""
    weights_BS = masks.softmax(logits_BS, segments_BS != 0)
    pooled_BD = jnp.einsum("BS,BSD->BD", weights_BS, _real(values_BSD, segments_BS))
    return pooled_BD.astype(values_BSD.dtype), weights_BS


def _real(values_BSD: jax.Array, segments_BS: jax.Array) -> jax.Array:
    """Returns the values in float32, zeros in padding."""
    return jnp.where((segments_BS != 0)[..., None], values_BSD.astype(jnp.float32), 0.0)


def _at(values_BSD: jax.Array, segments_BS: jax.Array, index_B: jax.Array) -> jax.Array:
    found_BD = jnp.take_along_axis(values_BSD, index_B[:, None, None], axis=1)[:, 0]
    return jnp.where(jnp.any(segments_BS != 0, axis=1)[:, None], found_BD, jnp.zeros((), values_BSD.dtype))


class Pooling(nn.Module):
    """values_BSD -> pooled_BD, or pooled_B(2D) by "max_mean", both side by side (ULMFiT, Howard & Ruder 2018, without the last state).

    "attention" (Yang et al. 2016, eq. 5-7) weighs position i by the softmax of u . tanh(W h_i + b) with a learned query u of
    `attention_dim` (0: as wide as the values) and sows its weights as "attention"/"weights", [B, 1, 1, S], where that collection is asked
    for.
    """

    kind: Kind
    attention_dim: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, values_BSD: jax.Array, segments_BS: jax.Array) -> jax.Array:
        if self.kind == "attention":
            return self._attention(values_BSD, segments_BS)
        if self.kind == "max_mean":
            return jnp.concatenate([maximum(values_BSD, segments_BS), mean(values_BSD, segments_BS)], axis=-1)
        return {"mean": mean, "max": maximum, "first": first, "last": last}[self.kind](values_BSD, segments_BS)

    def _attention(self, values_BSD: jax.Array, segments_BS: jax.Array) -> jax.Array:
        width = values_BSD.shape[-1]
        values_BSD = _real(values_BSD, segments_BS).astype(values_BSD.dtype)
        hidden_BSA = jnp.tanh(Linear(self.attention_dim or width, True, width**-0.5, self.dtype, name="hidden")(values_BSD))
        logits_BS = Linear(1, False, 0.1, self.dtype, jnp.float32, name="query")(hidden_BSA)[..., 0]
        pooled_BD, weights_BS = weighted(values_BSD, segments_BS, logits_BS)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "weights", weights_BS[:, None, None])
        return pooled_BD
