"""Bidirectional attention flow (Seo et al. 2017): context and question read by one BiLSTM, attending each other, and read again.

Reads from a batch: "tokens", "segments", "types" (1 in the context) int32 [B,S]; "question" int32 [B,Q], 1 at the question, which begins
the row; and, where characters are read, "chars" int32 [B,S,K].
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core.errors import UserError
from decoder_lab.layers.characters import Characters
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.question import AttentionFlow, Highway, features_of
from decoder_lab.layers.recurrent import Recurrent

OUTPUT = "spans"  # what it gives: a task of the same OUTPUT trains it

VARIANTS = {
    "seo2017": dict(embedding_dim=100, width=100, characters="cnn", character_dim=16, character_features=100, dropout=0.2),
}


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    names = ("embedding_dim", "width", "character_dim", "character_features", "modelling_layers")
    found = [f"{name} must be at least 1, got {kw[name]}" for name in names if kw[name] < 1]
    if not 0 <= kw["dropout"] < 1:
        found.append(f"dropout must be at least 0 and below 1, got {kw['dropout']}")
    return found


class Model(nn.Module):
    """tokens_BS -> logits_BS2 of the answer's first and last token.

    Question and context are two documents of one row, and every BiLSTM starts anew between them. Position 0, of the question, stands for
    "no answer here".
    """

    vocab_size: int
    char_vocab_size: int
    max_length: int
    dtype: jnp.dtype
    variant: str = ""
    embedding_dim: int = 100
    width: int = 100  # of each LSTM's direction
    characters: Literal["none", "cnn"] = "none"
    character_dim: int = 16
    character_features: int = 100
    character_window: int = 5
    modelling_layers: int = 2
    features: bool = False  # whether a token knows that the question has it too (Chen et al. 2017); not in the paper
    dropout: float = 0.0

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
        """Returns float32 logits_BS2."""
        question_BQ = question_BQ[:, : tokens_BS.shape[1]]  # it begins the row; what is padded further has nothing
        real_BS, context_BS = segments_BS != 0, (segments_BS != 0) & (types_BS == 1)
        documents_BS = jnp.where(real_BS, jnp.where(context_BS, 2, 1), 0)
        x_BSI = self._embedded(tokens_BS, real_BS, types_BS, question_BQ, chars_BSK, deterministic)
        h_BSD = self._lstm("contextual", 1, x_BSI, documents_BS, deterministic)
        u_BQD = h_BSD[:, : question_BQ.shape[1]]
        g_BSF = AttentionFlow(self.dtype, name="flow")(h_BSD, u_BQD, context_BS, question_BQ != 0)
        m_BSD = self._lstm("modelling", self.modelling_layers, g_BSF, documents_BS, deterministic)
        m2_BSD = self._lstm("output", 1, m_BSD, documents_BS, deterministic)
        logits = [self._logit(name, jnp.concatenate([g_BSF, y], axis=-1), deterministic) for name, y in (("start", m_BSD), ("end", m2_BSD))]
        return jnp.concatenate(logits, axis=-1)

    def _embedded(self, tokens_BS, real_BS, types_BS, question_BQ, chars_BSK, deterministic: bool) -> jax.Array:
        table = Embedding(self.vocab_size, self.embedding_dim, 0.1, self.dtype, name="token_embedding")
        parts = [table(jnp.where(real_BS, tokens_BS, 0))]
        if self.characters != "none":
            if chars_BSK is None:
                raise UserError(
                    'model bidaf: characters="cnn" reads each token\'s characters: set --config.task.kw.max_characters, such as 16.'
                )
            kw = dict(embedding_dim=self.character_dim, features=self.character_features, window=self.character_window, dtype=self.dtype)
            parts.append(Characters(self.char_vocab_size, "cnn", dropout=self.dropout, name="characters", **kw)(chars_BSK, deterministic))
        if self.features:
            parts.append(features_of(tokens_BS, types_BS, question_BQ).astype(self.dtype))
        x_BSI = Highway(dtype=self.dtype, name="highway")(jnp.concatenate(parts, axis=-1))
        return jnp.where(real_BS[..., None], x_BSI, jnp.zeros((), x_BSI.dtype))

    def _lstm(self, name: str, num_layers: int, x_BSI: jax.Array, documents_BS: jax.Array, deterministic: bool) -> jax.Array:
        x_BSI = Dropout(self.dropout, name=f"{name}_dropout")(x_BSI, deterministic)
        lstm = Recurrent("lstm", self.width, num_layers, bidirectional=True, dropout=self.dropout, dtype=self.dtype, name=name)
        values_BSD = lstm(x_BSI, documents_BS, deterministic).values_BSD
        return jnp.where((documents_BS != 0)[..., None], values_BSD, jnp.zeros((), values_BSD.dtype))

    def _logit(self, name: str, x_BSF: jax.Array, deterministic: bool) -> jax.Array:
        x_BSF = Dropout(self.dropout, name=f"{name}_dropout")(x_BSF, deterministic)
        return Linear(1, True, x_BSF.shape[-1] ** -0.5, self.dtype, jnp.float32, name=name)(x_BSF)

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        return f"bidirectional attention flow of LSTMs {self.width} wide, characters: {self.characters}"
