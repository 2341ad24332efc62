"""Normalisation of the last axis, computed in float32."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Kind = Literal["layer", "rms", "rms_plus_one"]


class Norm(nn.Module):
    """Layer norm (Ba et al. 2016) or RMS norm (Zhang & Sennrich 2019, no mean) with a learned scale; the result has dtype `dtype`.

    Layer norm has a learned bias if `use_bias`; RMS norm never has one. "rms_plus_one" (Gemma) multiplies by 1 + scale, which begins at
    zero.
    """

    kind: Kind = "layer"
    use_bias: bool = True
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        plus_one = self.kind == "rms_plus_one"
        scale = self.param("scale", nn.initializers.zeros if plus_one else nn.initializers.ones, (x.shape[-1],), jnp.float32)
        scale = 1.0 + scale if plus_one else scale
        y = _scaled(x, scale, self.kind == "layer", self.epsilon)
        if self.kind == "layer" and self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)[(None,) * (x.ndim - 1)]
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scaled(x: jax.Array, scale: jax.Array, centre: bool, epsilon: float) -> jax.Array:
    """Returns the float32 normalised x times scale. Its own derivative (reverse mode only), to keep x and not four arrays of its size."""
    return _scaled_forward(x, scale, centre, epsilon)[0]


def _scaled_forward(x, scale, centre: bool, epsilon: float):
    y = x.astype(jnp.float32)
    mean = jnp.mean(y, axis=-1, keepdims=True) if centre else None
    y = y - mean if centre else y
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + epsilon)
    return y * inverse * scale[(None,) * (x.ndim - 1)], (x, scale, mean, inverse)


def _scaled_backward(centre: bool, epsilon: float, saved, g):
    """With h = (x - mean) / deviation and u = scale * g: dx = (u - mean(u) - h mean(u h)) / deviation, dscale = sum(g h)."""
    x, scale, mean, inverse = saved
    y = x.astype(jnp.float32)
    h = (y - mean if centre else y) * inverse
    u = g * scale[(None,) * (x.ndim - 1)]
    dx = u - h * jnp.mean(u * h, axis=-1, keepdims=True)
    if centre:
        dx -= jnp.mean(u, axis=-1, keepdims=True)
    return (dx * inverse).astype(x.dtype), jnp.sum(g * h, axis=tuple(range(x.ndim - 1)))


_scaled.defvjp(_scaled_forward, _scaled_backward)
