"""The parameters of an affine map as arrays, for products that run inside a scan, where modules cannot be called."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.initialization import normal


class Weights(nn.Module):
    """Holds kernel [in, features] and bias [features], float32; the standard deviation is `in ** -0.5`."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, in_dim: int) -> dict[str, jax.Array]:
        """Returns {"kernel"} or {"kernel", "bias"} for inputs of width `in_dim`."""
        found = {"kernel": self.param("kernel", normal(in_dim**-0.5), (in_dim, self.features), jnp.float32)}
        if self.use_bias:
            found["bias"] = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return found
