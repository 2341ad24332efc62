"""The affine map on the last axis."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.initialization import normal


class Linear(nn.Module):
    """x @ kernel + bias: kernel [in, out], bias [out], both float32; computed in `dtype`, the result in `out_dtype` if given."""

    features: int
    use_bias: bool = True
    stddev: float = 0.02
    dtype: jnp.dtype = jnp.float32
    out_dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", normal(self.stddev), (x.shape[-1], self.features), jnp.float32)
        contract_last = (((x.ndim - 1,), (0,)), ((), ()))
        y = jax.lax.dot_general(x.astype(self.dtype), kernel.astype(self.dtype), contract_last, preferred_element_type=self.out_dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y += bias.astype(y.dtype)[(None,) * (y.ndim - 1)]
        return y
