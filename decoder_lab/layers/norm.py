"""Normalisation of the last axis, computed in float32."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Kind = Literal["layer", "rms"]


class Norm(nn.Module):
    """Layer norm (Ba et al. 2016) or RMS norm (Zhang & Sennrich 2019, no mean) with a learned scale; the result has dtype `dtype`.

    Layer norm has a learned bias if `use_bias`; RMS norm never has one.
    """

    kind: Kind = "layer"
    use_bias: bool = True
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y -= jnp.mean(y, axis=-1, keepdims=True)
        y *= jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        ahead = (None,) * (x.ndim - 1)
        y *= self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)[ahead]
        if self.kind == "layer" and self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)[ahead]
        return y.astype(self.dtype)
