"""Any encoder on question and context in one row, and two numbers a position: whether the answer begins or ends there (Devlin et al. 2019).

Reads from a batch: "tokens", "segments", "types" (1 in the context) int32 [B,S]; "question" int32 [B,Q], 1 at the question, which begins
the row.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core import lookup
from decoder_lab.core.lookup import Plugin
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.question import features_of

OUTPUT = "spans"  # what it gives: a task of the same OUTPUT trains it


class Model(nn.Module):
    """tokens_BS -> logits_BS2. The encoder's parameters are below `encoder/`, where those of a pretrained one go."""

    vocab_size: int
    max_length: int
    dtype: jnp.dtype
    encoder: Plugin["encoder"] = dataclasses.field(default_factory=lambda: dict(name="recurrent", kw={}))
    token_types: bool = False  # the encoder is told the types; needs one that has them, such as BERT's
    features: bool = True  # beside its embedding each token has: whether it is of the context, and whether the question has it too
    dropout: float = 0.0  # before the last layer

    def setup(self):
        given = dict(vocab_size=self.vocab_size, max_length=self.max_length, dtype=self.dtype)
        # the field has the name "encoder" already, the parameters shall have it too
        self._encoder = lookup.make("encoder", self.encoder, **given).clone(parent=self, name="encoder")

    @nn.compact
    def __call__(
        self,
        tokens_BS: jax.Array,
        *,
        segments_BS: jax.Array,
        types_BS: jax.Array,
        question_BQ: jax.Array,
        chars_BSK: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns float32 logits_BS2 of first and last token; characters are not read."""
        del chars_BSK
        given = {}
        if self.token_types:
            given["types_BS"] = types_BS
        if self.features:
            given["extra_BSE"] = features_of(tokens_BS, types_BS, question_BQ).astype(self.dtype)
        memory = self._encoder(tokens_BS, segments_BS=segments_BS, **given, deterministic=deterministic)
        x_BSD = jnp.where((segments_BS != 0)[..., None], memory.values_BSD, jnp.zeros((), memory.values_BSD.dtype))
        x_BSD = Dropout(self.dropout, name="dropout")(x_BSD, deterministic)
        return Linear(2, True, 0.02, self.dtype, jnp.float32, name="span")(x_BSD)

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        return f"{self.encoder['name']} encoder, start and end of a span"
