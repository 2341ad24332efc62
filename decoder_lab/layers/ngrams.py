"""Embeddings of hashed n-grams: of the tokens of a text (Joulin et al. 2016), and of the characters of a word (Bojanowski et al. 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.convolution import windows
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding


def ngram_buckets(tokens_BS: jax.Array, segments_BS: jax.Array, order: int, num_buckets: int) -> jax.Array:
    """Returns int32 [B, S]: a hash in 1 .. num_buckets of the `order` tokens that end here, 0 where a document has fewer before."""
    offsets = tuple(range(1 - order, 1))
    # one more, so that 0 says "nothing here"
    ids_BSK = windows(tokens_BS[..., None] + 1, segments_BS, offsets)[..., 0]
    mixed_BS = jnp.full(tokens_BS.shape, order, jnp.uint32)
    for k in range(order):
        mixed_BS = (mixed_BS ^ ids_BSK[..., k].astype(jnp.uint32)) * jnp.uint32(0x21F0AAAD)
        mixed_BS = mixed_BS ^ (mixed_BS >> 15)
    buckets_BS = (mixed_BS % jnp.uint32(num_buckets)).astype(jnp.int32) + 1
    return jnp.where(jnp.all(ids_BSK != 0, axis=-1), buckets_BS, 0)


class CharacterNgrams(nn.Module):
    """chars_BSK (0 is padding) -> features_BSE: the mean of the embeddings of a word's character n-grams, all `orders` in one table.

    Characters are any numbers, such as code points; a word without n-grams gives zeros. Dropout takes whole n-grams away.
    """

    features: int
    orders: tuple[int, ...] = (3, 4, 5)
    num_buckets: int = 32768
    stddev: float = 0.1
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, chars_BSK: jax.Array, deterministic: bool = True) -> jax.Array:
        batch, words, length = chars_BSK.shape
        chars_NK = chars_BSK.reshape(batch * words, length)
        segments_NK = (chars_NK != 0).astype(jnp.int32)
        buckets_NM = jnp.concatenate([ngram_buckets(chars_NK, segments_NK, n, self.num_buckets) for n in self.orders], axis=1)
        there_NM = (buckets_NM != 0).astype(self.dtype)
        table = Embedding(self.num_buckets + 1, self.features, self.stddev, self.dtype, name="embedding")
        kept_NM = Dropout(self.dropout, name="dropout")(there_NM, deterministic)
        total_NE = jnp.einsum("NM,NME->NE", kept_NM, table(buckets_NM))
        count_N = jnp.maximum(jnp.sum(there_NM, axis=1), 1)
        return (total_NE / count_N[:, None]).reshape(batch, words, self.features)
