"""A classifier, or a scorer, of texts that reads them with a decoder: the hidden state at a text's last token, and a linear layer.

Reads from a batch: "tokens" int32 [B, S], "segments" (0 is padding, which may stand anywhere).
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core import lookup
from decoder_lab.core.lookup import Plugin
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.pooling import Pooling

OUTPUT = "labels"  # what it gives: a task of the same OUTPUT trains it


def problems(kw) -> list[str]:
    """Dropout is a share, and there is no source to be read."""
    from decoder_lab.layers import transformer_problems  # needs no JAX

    found = [] if 0 <= kw["dropout"] < 1 else [f"dropout must be at least 0 and below 1, got {kw['dropout']}"]
    return found + transformer_problems.of_no_source((kw["decoder"] or {}).get("kw") or {}, "decoder.kw.")


class Model(nn.Module):
    """tokens_BS -> logits_BC, C = `num_labels` (1 for a score).

    The decoder's parameters are below `decoder/`: those of a language model (`decoder_only`, `recurrent_lm`) go there by
    `init_from.rename={"^": "decoder/"}`. Its table of logits is not used.
    """

    vocab_size: int
    num_labels: int
    max_length: int
    dtype: jnp.dtype
    decoder: Plugin["decoder"] = dataclasses.field(default_factory=lambda: dict(name="transformer", kw={}))
    pooling: Literal["last", "mean", "max"] = "last"
    dropout: float = 0.0  # before the last layer

    def setup(self):
        given = dict(vocab_size=self.vocab_size, max_length=self.max_length, dtype=self.dtype)
        # the field has the name "decoder" already, the parameters shall have it too
        self._decoder = lookup.make("decoder", self.decoder, **given).clone(parent=self, name="decoder")
        self.pool = Pooling(self.pooling, 0, self.dtype)
        self.output_dropout = Dropout(self.dropout)
        self.output = Linear(self.num_labels, True, 0.02, self.dtype, jnp.float32)

    def __call__(self, tokens_BS: jax.Array, *, segments_BS: jax.Array | None = None, deterministic: bool = True) -> jax.Array:
        """Returns float32 logits_BC."""
        segments_BS = jnp.ones(tokens_BS.shape, jnp.int32) if segments_BS is None else segments_BS
        hidden_BSD, _ = self._decoder(tokens_BS, segments_BT=segments_BS, deterministic=deterministic, return_hidden=True)
        pooled_BD = self.output_dropout(self.pool(hidden_BSD, segments_BS), deterministic)
        return self.output(pooled_BD)

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        return f"{self.decoder['name']} decoder, {self.pooling} position, {self.num_labels} labels"
