"""Vectors of words made of their characters: what tells an unknown word's kind, and a prefix or suffix from another.

Axis W: words, K: characters of a word.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers import pooling
from decoder_lab.layers.convolution import Convolution
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.recurrent import Recurrent

Kind = Literal["cnn", "lstm"]


class Characters(nn.Module):
    """chars_BWK (0 is padding) -> features_BWE; a word without characters, a padded one, gives zeros.

    "cnn" (Ma & Hovy 2016): a convolution over `window` characters, the largest value of each of the E filters over the word. "lstm" (Lample
    et al. 2016): the last state of an LSTM in either direction, E / 2 features each.
    """

    vocab_size: int
    kind: Kind = "cnn"
    embedding_dim: int = 30
    features: int = 30
    window: int = 3
    dropout: float = 0.0  # of the characters' embeddings
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, chars_BWK: jax.Array, deterministic: bool = True) -> jax.Array:
        batch, words, length = chars_BWK.shape
        chars_NK = chars_BWK.reshape(batch * words, length)
        segments_NK = (chars_NK != 0).astype(jnp.int32)
        x_NKD = Embedding(self.vocab_size, self.embedding_dim, self.embedding_dim**-0.5, self.dtype, name="embedding")(chars_NK)
        x_NKD = Dropout(self.dropout, name="dropout")(x_NKD, deterministic)
        if self.kind == "cnn":
            maps_NKE = Convolution(self.features, self.window, dtype=self.dtype, name="convolution")(x_NKD, segments_NK)
            features_NE = pooling.maximum(maps_NKE, segments_NK)
        else:
            lstm = Recurrent("lstm", self.features // 2, bidirectional=True, dtype=self.dtype, name="lstm")
            _, h_NE = lstm(x_NKD, segments_NK, deterministic).states[-1]
            features_NE = h_NE.astype(self.dtype)
        return features_NE.reshape(batch, words, self.features)
