"""Two texts as two vectors of length one, near each other where the texts belong together.

Reads from a batch: "source" and "source_segments" int32 [B, S], "tokens" and "segments" int32 [B, T] (0 is padding).
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Plugin
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.pooling import Pooling

OUTPUT = "embeddings of two texts"  # what it gives: a task of the same OUTPUT trains it

MAX_SCALE = 100.0  # as in CLIP (Radford et al. 2021): a sharper softmax is no more stable


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = []
    if kw["projection_dim"] < 0:
        found.append(f"projection_dim must be at least 0, got {kw['projection_dim']}")
    if not 0.01 <= kw["temperature"] <= 10:
        found.append(f"temperature must be from 0.01 to 10, got {kw['temperature']}")
    if not 0 <= kw["dropout"] < 1:
        found.append(f"dropout must be at least 0 and below 1, got {kw['dropout']}")
    return found


class Tower(nn.Module):
    """Encoder, pooling, projection, L2 norm: tokens_BS -> unit vectors_BP, float32. A text without a token gives zeros."""

    encoder: Any  # a plug-in
    vocab_size: int
    max_length: int
    pooling: str
    projection_dim: int
    dropout: float
    dtype: jnp.dtype

    def setup(self):
        given = dict(vocab_size=self.vocab_size, max_length=self.max_length, dtype=self.dtype)
        self._encoder = lookup.make("encoder", self.encoder, **given).clone(parent=self, name="encoder")
        self.pool = Pooling(self.pooling, dtype=self.dtype)

    @nn.compact
    def __call__(self, tokens_BS: jax.Array, segments_BS: jax.Array | None, deterministic: bool) -> jax.Array:
        memory = self._encoder(tokens_BS, segments_BS=segments_BS, deterministic=deterministic)
        x_BD = Dropout(self.dropout, name="dropout")(self.pool(memory.values_BSD, memory.segments_BS), deterministic)
        if self.projection_dim:
            x_BD = Linear(self.projection_dim, False, x_BD.shape[-1] ** -0.5, self.dtype, name="projection")(x_BD)
        x_BP = x_BD.astype(jnp.float32)
        # the epsilon is inside the root, which has no gradient at zero
        return x_BP * jax.lax.rsqrt(jnp.sum(jnp.square(x_BP), axis=-1, keepdims=True) + 1e-12)


class Model(nn.Module):
    """(source_BS, tokens_BT) -> (source_BP, target_BP, scale): unit vectors and what their products are multiplied by, 1 / temperature.

    Parameters are below `target_tower/` and, where the towers are not `shared`, `source_tower/`.
    """

    vocab_size: int
    source_vocab_size: int
    max_length: int
    dtype: jnp.dtype
    encoder: Plugin["encoder"] = dataclasses.field(default_factory=lambda: dict(name="bag_of_embeddings", kw={}))
    pooling: Literal["mean", "max", "first", "last", "attention", "max_mean"] = "mean"
    projection_dim: int = 128  # 0: no projection
    shared: bool = True  # one tower for both sides, which then have one vocabulary
    temperature: float = 0.05  # its initial value where it is learned
    learn_temperature: bool = True
    dropout: float = 0.0  # before the projection

    def setup(self):
        if self.shared and self.vocab_size != self.source_vocab_size:
            sizes = f"{self.source_vocab_size} and {self.vocab_size}"
            raise UserError(
                f"dual_encoder: shared towers need one vocabulary, got {sizes} tokens. Leave out data.source_tokenizer, or shared=False."
            )

        def tower(vocab_size: int) -> Tower:
            return Tower(self.encoder, vocab_size, self.max_length, self.pooling, self.projection_dim, self.dropout, self.dtype)

        self.target_tower = tower(self.vocab_size)
        if not self.shared:
            self.source_tower = tower(self.source_vocab_size)
        if self.learn_temperature:
            self.log_scale = self.param("log_scale", nn.initializers.constant(-math.log(self.temperature)), (), jnp.float32)

    def __call__(
        self,
        source_BS: jax.Array,
        tokens_BT: jax.Array,
        *,
        source_segments_BS: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns float32 (source_BP, target_BP, scale)."""
        source_BP = self.embed_source(source_BS, source_segments_BS, deterministic)
        return source_BP, self.embed_target(tokens_BT, segments_BT, deterministic), self.scale()

    def embed_source(self, source_BS: jax.Array, segments_BS: jax.Array | None = None, deterministic: bool = True) -> jax.Array:
        """Returns unit vectors_BP of source texts."""
        return (self.target_tower if self.shared else self.source_tower)(source_BS, segments_BS, deterministic)

    def embed_target(self, tokens_BT: jax.Array, segments_BT: jax.Array | None = None, deterministic: bool = True) -> jax.Array:
        """Returns unit vectors_BP of target texts."""
        return self.target_tower(tokens_BT, segments_BT, deterministic)

    def scale(self) -> jax.Array:
        """Returns the scalar that products of vectors are multiplied by."""
        if not self.learn_temperature:
            return jnp.asarray(1 / self.temperature, jnp.float32)
        return jnp.minimum(jnp.exp(self.log_scale), MAX_SCALE)
