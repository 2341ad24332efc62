"""Tokens and positions to vectors, and back to logits with the same table."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.initialization import normal


class Embedding(nn.Module):
    """A float32 table [num_embeddings, features]. An index out of range gives NaN, which is found, rather than a neighbour's row."""

    num_embeddings: int
    features: int
    stddev: float = 0.02
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.embedding = self.param("embedding", normal(self.stddev), (self.num_embeddings, self.features), jnp.float32)

    def __call__(self, indices_BT: jax.Array) -> jax.Array:
        """Returns vectors_BTD in `dtype`."""
        return jnp.take(self.embedding, indices_BT, axis=0, mode="fill", fill_value=jnp.nan).astype(self.dtype)

    def attend(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the products with every row as float32 logits_BTV (the unembedding when tied); the factors are in `dtype`."""
        x_BTD, table_VD = x_BTD.astype(self.dtype), self.embedding.astype(self.dtype)
        return jnp.einsum("BTD,VD->BTV", x_BTD, table_VD, preferred_element_type=jnp.float32)
