"""The mean of embeddings, dropout, and a linear layer."""

import flax.linen as nn
import jax.numpy as jnp


class Model(nn.Module):
    vocab_size: int
    num_labels: int
    dtype: jnp.dtype
    width: int = 8
    dropout: float = 0.1

    @nn.compact
    def __call__(self, tokens, segments, deterministic):
        mask = (segments > 0)[..., None]
        x = jnp.where(mask, nn.Embed(self.vocab_size, self.width)(tokens), 0.0)
        x = nn.Dropout(self.dropout)(x, deterministic=deterministic).sum(1) / jnp.maximum(mask.sum(1), 1)
        return nn.Dense(self.num_labels)(x)
