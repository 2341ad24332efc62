"""An encoder with the head of BERT: what stood at each place. Any of `encoders/`, BERT's sizes as presets.

Reads from a batch: "tokens" int32 [B, S]; where there is padding or several documents a row, "segments" and "positions" int32 [B, S].
The encoder's parameters are below `encoder/`, where a classifier, tagger or reader has them too (`init_from`).
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core import lookup
from decoder_lab.core.lookup import Plugin
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.mlp import ACTIVATIONS
from decoder_lab.layers.norm import Norm

OUTPUT = "hidden tokens"  # what it gives: a task of the same OUTPUT trains it

VARIANTS = {
    # parameters with the head, at vocabulary 30522 and length 512 (Devlin et al. 2019, Turc et al. 2019, Wang et al. 2020)
    "bert-tiny": dict(encoder=dict(name="transformer", kw=dict(variant="bert-tiny"))),  # 4,416,698
    "bert-mini": dict(encoder=dict(name="transformer", kw=dict(variant="bert-mini"))),  # 11,201,594
    "bert-small": dict(encoder=dict(name="transformer", kw=dict(variant="bert-small"))),  # 28,795,194
    "bert-medium": dict(encoder=dict(name="transformer", kw=dict(variant="bert-medium"))),  # 41,404,730
    "bert-base": dict(encoder=dict(name="transformer", kw=dict(variant="bert-base"))),  # 109,514,298
    "bert-large": dict(encoder=dict(name="transformer", kw=dict(variant="bert-large"))),  # 335,174,458
    "minilm-l6": dict(encoder=dict(name="transformer", kw=dict(variant="minilm-l6"))),  # 22,744,506
}


class Model(nn.Module):
    """tokens_BS -> logits_BSV: dense, gelu, norm, then the embedding table and a bias. `variant` names a preset."""

    vocab_size: int
    max_length: int
    dtype: jnp.dtype
    variant: str = ""
    encoder: Plugin["encoder"] = dataclasses.field(default_factory=lambda: dict(name="transformer", kw={}))
    activation: Literal["gelu_exact", "gelu", "relu", "silu"] = "gelu_exact"  # of the head
    tie_embeddings: bool = True  # with the encoder's table, where the encoder shows it; an own one elsewhere
    norm_epsilon: float = 1e-12
    init_stddev: float = 0.02

    def setup(self):
        given = dict(vocab_size=self.vocab_size, max_length=self.max_length, dtype=self.dtype)
        # the field has the name "encoder" already, the parameters shall have it too
        self._encoder = lookup.make("encoder", self.encoder, **given).clone(parent=self, name="encoder")
        width = getattr(self._encoder, "embedding_dim", None) or self._encoder.width
        self.transform = Linear(width, True, self.init_stddev, self.dtype)
        self.transform_norm = Norm("layer", True, self.norm_epsilon, self.dtype)
        self.unembedding = Linear(self.vocab_size, False, self.init_stddev, self.dtype, jnp.float32)
        self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)

    def __call__(
        self,
        tokens_BS: jax.Array,
        *,
        segments_BS: jax.Array | None = None,
        positions_BS: jax.Array | None = None,
        types_BS: jax.Array | None = None,
        places_BK: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns float32 logits_BSV, or with places_BK (columns) those of the places only, logits_BKV: most of a head's work is saved."""
        places = dict(segments_BS=segments_BS, positions_BS=positions_BS, types_BS=types_BS)
        x_BSD = self._encoder(tokens_BS, **places, deterministic=deterministic).values_BSD
        if places_BK is not None:
            x_BSD = jnp.take_along_axis(x_BSD, places_BK[:, :, None], axis=1)
        x_BSD = self.transform_norm(ACTIVATIONS[self.activation](self.transform(x_BSD)))
        table = getattr(self._encoder, "token_embedding", None) if self.tie_embeddings else None
        logits_BSV = self.unembedding(x_BSD) if table is None else table.attend(x_BSD)
        return logits_BSV + self.logits_bias[None, None]

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        return f"{self.encoder['name']} encoder with a head for masked tokens"
