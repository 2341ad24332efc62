"""A bag of embeddings, as in fastText (Joulin et al. 2016): tokens and hashed n-grams of tokens, without any order beyond those."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.memory import Memory
from decoder_lab.layers.ngrams import ngram_buckets


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = [f"{name} must be at least 1, got {kw[name]}" for name in ("embedding_dim", "ngrams", "num_buckets") if kw[name] < 1]
    if not 0 <= kw["dropout"] < 1:
        found.append(f"dropout must be at least 0 and below 1, got {kw['dropout']}")
    return found


class Encoder(nn.Module):
    """tokens_BS -> Memory with one vector a position: the token's embedding plus those of the n-grams of 2 .. `ngrams` that end there.

    Mean pooling gives fastText's classifier, but that the sum is divided by the number of tokens, not of tokens and n-grams. N-grams share
    `num_buckets` rows by a hash, and stay inside their document. Dropout takes whole positions away (deep averaging networks, Iyyer et
    al. 2015).
    """

    vocab_size: int
    dtype: jnp.dtype
    embedding_dim: int = 128
    embedding_stddev: float = 0.1
    ngrams: int = 2  # 1: tokens only
    num_buckets: int = 32768
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        tokens_BS: jax.Array,
        *,
        segments_BS: jax.Array | None = None,
        positions_BS: jax.Array | None = None,
        types_BS: jax.Array | None = None,
        extra_BSE: jax.Array | None = None,
        embedding: Embedding | None = None,
        deterministic: bool = True,
    ) -> Memory:
        """Returns the memory of [B, S, embedding_dim (+ E)] values; positions mean nothing here, extra_BSE is concatenated."""
        del positions_BS
        if types_BS is not None:
            raise ValueError("a bag of embeddings has no token types: types_BS must be None")
        if segments_BS is None:
            segments_BS = jnp.ones(tokens_BS.shape, jnp.int32)
        tokens_BS = jnp.where(segments_BS == 0, 0, tokens_BS)
        if embedding is None:
            embedding = Embedding(self.vocab_size, self.embedding_dim, self.embedding_stddev, self.dtype, name="token_embedding")
        x_BSD = embedding(tokens_BS)
        for order in range(2, self.ngrams + 1):
            table = Embedding(self.num_buckets + 1, x_BSD.shape[-1], self.embedding_stddev, self.dtype, name=f"ngram_{order}_embedding")
            buckets_BS = ngram_buckets(tokens_BS, segments_BS, order, self.num_buckets)
            x_BSD += jnp.where((buckets_BS != 0)[..., None], table(buckets_BS), jnp.zeros((), self.dtype))
        if extra_BSE is not None:
            x_BSD = jnp.concatenate([x_BSD, extra_BSE.astype(self.dtype)], axis=-1)
        kept_BS1 = Dropout(self.dropout, name="dropout")(jnp.ones((*tokens_BS.shape, 1), self.dtype), deterministic)
        return Memory(x_BSD * kept_BS1, segments_BS)
