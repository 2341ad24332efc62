"""An LSTM or GRU encoder, stacked, in one direction or both.

Reads tokens_BS int32 and segments_BS (0: padding, anywhere; 1, 2, ...: documents). The final states are after the last real token forwards
and after the first one backwards.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.memory import Memory
from decoder_lab.layers.recurrent import Recurrent, TimeDropout


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = []
    for name in ("width", "embedding_dim", "num_layers"):
        if kw[name] is not None and kw[name] < 1:
            found.append(f"{name} must be at least 1, got {kw[name]}")
    if not 0 <= kw["dropout"] < 1:
        found.append(f"dropout must be at least 0 and below 1, got {kw['dropout']}")
    if kw["reverse_source"] and kw["bidirectional"]:
        found.append("reverse_source with bidirectional changes nothing but names: set one of them to False")
    return found


class Encoder(nn.Module):
    """tokens_BS -> Memory with values [B, S, width] (twice that if bidirectional) and the final states of each layer.

    `mask_padding=False` is a known bug of the field, kept so that it can be measured: padding is read as if it were text, so the final
    states are those after the padding, and the backward direction begins in it. Never use it for anything else.
    """

    vocab_size: int
    max_length: int
    dtype: jnp.dtype
    cell: Literal["lstm", "gru"] = "lstm"
    width: int = 256  # of each direction
    embedding_dim: int | None = None  # None: width
    num_layers: int = 1
    bidirectional: bool = False
    reverse_source: bool = False  # read from the end to the beginning (Sutskever et al. 2014); values stay at their tokens' places
    dropout: float = 0.0  # of the embeddings and between layers
    variational: bool = False  # one dropout mask for all time (Gal & Ghahramani 2016)
    mask_padding: bool = True
    forget_bias: float = 1.0  # initial bias of an LSTM's forget gate
    embedding_stddev: float = 0.1

    def setup(self):
        self.token_embedding = Embedding(self.vocab_size, self.embedding_dim or self.width, self.embedding_stddev, self.dtype)
        self.embedding_dropout = TimeDropout(self.dropout, self.variational)
        self.recurrent = Recurrent(
            self.cell,
            self.width,
            self.num_layers,
            self.bidirectional,
            self.reverse_source,
            self.dropout,
            self.variational,
            self.forget_bias,
            self.dtype,
        )

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
        """Returns the memory; segments None: no padding.

        `extra_BSE` is concatenated to the token embeddings, `embedding` replaces the encoder's own table; positions are not needed.
        """
        del positions_BS
        if types_BS is not None:
            raise ValueError("a recurrent encoder has no token types: types_BS must be None")
        real_BS = jnp.ones(tokens_BS.shape, bool) if segments_BS is None else segments_BS != 0
        x_BSI = (embedding or self.token_embedding)(jnp.where(real_BS, tokens_BS, 0)).astype(self.dtype)
        if extra_BSE is not None:
            extra_BSE = jnp.where(real_BS[:, :, None], extra_BSE, 0.0).astype(self.dtype)
            x_BSI = jnp.concatenate([x_BSI, extra_BSE], axis=-1)
        x_BSI = self.embedding_dropout(x_BSI.transpose(1, 0, 2), deterministic).transpose(1, 0, 2)
        read = self.recurrent(x_BSI, segments_BS if self.mask_padding else None, deterministic)
        segments_BS = real_BS.astype(jnp.int32) if segments_BS is None else segments_BS.astype(jnp.int32)
        return Memory(read.values_BSD, segments_BS, read.states, segment_states=read.segment_states)
