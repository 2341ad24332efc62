"""The convolutional decoder of Gehring et al. 2017 (ConvS2S): causal gated convolutions, each followed by its own attention to the source.

Reads tokens int32 [B, T]; where rows hold several documents or padding, segments (1, 2, ...; 0 is padding) and positions int32 [B, T].
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core.errors import UserError
from decoder_lab.layers.convolution import GatedConvolution
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.memory import Memory
from decoder_lab.ops import masks


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = []
    for name in ("embedding_dim", "width", "kernel_size", "num_layers"):
        if kw[name] < 1:
            found.append(f"{name} must be at least 1, got {kw[name]}")
    if not 0 <= kw["dropout"] < 1:
        found.append(f"dropout must be at least 0 and below 1, got {kw['dropout']}")
    return found


class MultiStepAttention(nn.Module):
    """Attention of one layer (Gehring et al. 2017, section 3.3): weights from W h + g and the source, context sqrt(m) times the mean.

    h are the layer's outputs, g the target embeddings, m the number of source positions that are seen. Sows its weights as
    "attention"/"weights", float32 [B, 1, T, S], where that collection is asked for.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h_BTD: jax.Array, g_BTE: jax.Array, prepared: tuple[jax.Array, jax.Array], mask_BTS: jax.Array) -> jax.Array:
        """Returns what is added to h_BTD."""
        keys_BSE, values_BSE = prepared
        width, features = h_BTD.shape[-1], g_BTE.shape[-1]
        query_BTE = (Linear(features, True, width**-0.5, self.dtype, name="query")(h_BTD) + g_BTE) * math.sqrt(0.5)
        logits_BTS = jnp.einsum("BTE,BSE->BTS", query_BTE, keys_BSE, preferred_element_type=jnp.float32)
        weights_BTS = masks.softmax(logits_BTS, mask_BTS)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "weights", weights_BTS[:, None])
        context_BTE = jnp.einsum("BTS,BSE->BTE", weights_BTS.astype(self.dtype), values_BSE)
        seen_BT = jnp.sum(mask_BTS, axis=-1, dtype=jnp.float32)
        context_BTE *= jnp.sqrt(seen_BT).astype(self.dtype)[..., None]
        return Linear(width, True, features**-0.5, self.dtype, name="out")(context_BTE)


class Block(nn.Module):
    """x + attention(GLU(causal convolution(x))), the sums scaled by sqrt(1/2)."""

    width: int
    kernel_size: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BTD, g_BTE, segments_BT, history, prepared, mask_BTS, deterministic: bool) -> jax.Array:
        gated = GatedConvolution(self.width, self.kernel_size, True, self.dropout, self.dtype, name="gated")
        h_BTD = gated(x_BTD, segments_BT, history, deterministic)
        if prepared is not None:
            h_BTD = (h_BTD + MultiStepAttention(self.dtype, name="cross_attention")(h_BTD, g_BTE, prepared, mask_BTS)) * math.sqrt(0.5)
        return (x_BTD + h_BTD) * math.sqrt(0.5)


class Decoder(nn.Module):
    """tokens_BT -> logits_BTV, causal: step t sees the last `num_layers * (kernel_size - 1) + 1` tokens, and all of the memory.

    Keys of the source are its values, mapped once to `embedding_dim`; what is summed are its values plus, where the memory has them, its
    embeddings (eq. 2 of the paper), mapped alike. Without weight normalisation. The cache holds each layer's last kernel_size - 1 inputs.
    """

    vocab_size: int
    max_length: int
    dtype: jnp.dtype
    embedding_dim: int = 256
    embedding_stddev: float = 0.1
    width: int = 256
    kernel_size: int = 3
    num_layers: int = 4
    position: Literal["learned", "none"] = "learned"
    dropout: float = 0.0  # of the embeddings, the input of every block and the last hidden layer
    tie_embeddings: bool = True

    @property
    def context_length(self) -> int | None:
        """The longest context: as many tokens as there are learned positions; None without them, since the cache has no limit."""
        return self.max_length if self.position == "learned" else None

    def setup(self):
        features, dtype = self.embedding_dim, self.dtype
        self.token_embedding = Embedding(self.vocab_size, features, self.embedding_stddev, dtype)
        if self.position == "learned":
            self.position_embedding = Embedding(self.max_length, features, self.embedding_stddev, dtype)
        self.embedding_dropout, self.final_dropout = Dropout(self.dropout), Dropout(self.dropout)
        self.input = Linear(self.width, True, features**-0.5, dtype)
        self.layer = [Block(self.width, self.kernel_size, self.dropout, dtype) for _ in range(self.num_layers)]
        self.output = Linear(features, True, self.width**-0.5, dtype)
        self.memory_key = Linear(features, True, 0.05, dtype)
        self.memory_value = Linear(features, True, 0.05, dtype)
        self.memory_embedding = Linear(features, False, 0.05, dtype)
        self.unembedding = Linear(self.vocab_size, True, features**-0.5, dtype, jnp.float32)

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        cache: dict | None = None,
        memory: Memory | None = None,
        embedding: Embedding | None = None,
        deterministic: bool = True,
        return_hidden: bool = False,
    ) -> tuple[jax.Array, dict | None]:
        """Returns (logits_BTV float32, or hidden_BTE in the compute dtype for `unembed`; cache).

        positions default to 0, 1, ... within every document (going on from a cache), segments to one document a row. `embedding` is used
        instead of the decoder's own table, for the logits too if tied, and must be as wide.
        """
        length = tokens_BT.shape[1]
        if self.position == "learned" and cache is None and positions_BT is None and length > self.max_length:
            raise ValueError(f"{length} tokens exceed the {self.max_length} learned positions")
        segments_BT = jnp.ones(tokens_BT.shape, jnp.int32) if segments_BT is None else segments_BT.astype(jnp.int32)
        if positions_BT is None:
            positions_BT = masks.positions_in_segments(segments_BT)
            if cache is not None:  # the document that is open goes on
                positions_BT += jnp.where(segments_BT == cache["document"][:, None], cache["position"][:, None], 0)
        positions_BT = jnp.broadcast_to(positions_BT, tokens_BT.shape).astype(jnp.int32)

        g_BTE = self._embedded(tokens_BT, positions_BT, segments_BT, embedding)
        g_BTE = self.embedding_dropout(g_BTE, deterministic)
        prepared, mask_BTS = None, None
        if memory is not None:
            prepared = (memory if memory.prepared is not None else self.prepare(memory)).prepared
            mask_BTS = masks.same_segment(*masks.readable(segments_BT, memory.segments_BS))
        x_BTD, inputs = self.input(g_BTE), []
        for i, block in enumerate(self.layer):
            history = None if cache is None else (cache["inputs"][i], cache["segments"])
            inputs.append(x_BTD)
            x_BTD = block(x_BTD, g_BTE, segments_BT, history, prepared, mask_BTS, deterministic)
        if cache is not None:
            cache = self._moved_on(cache, inputs, segments_BT, positions_BT)
        hidden_BTE = self.final_dropout(self.output(x_BTD), deterministic)
        return (hidden_BTE if return_hidden else self.unembed(hidden_BTE, embedding)), cache

    def _embedded(self, tokens_BT, positions_BT, segments_BT, embedding) -> jax.Array:
        real_BT = segments_BT != 0
        # whatever stands in padding, a wild index included, must not become a NaN that masks cannot stop
        g_BTE = (embedding or self.token_embedding)(jnp.where(real_BT, tokens_BT, 0))
        if g_BTE.shape[-1] != self.embedding_dim:
            raise ValueError(f"the embedding that was given has {g_BTE.shape[-1]} features, expected embedding_dim = {self.embedding_dim}")
        if self.position == "learned":
            g_BTE += self.position_embedding(jnp.where(real_BT, positions_BT, 0))
        return g_BTE

    def _moved_on(self, cache: dict, inputs: list[jax.Array], segments_BT: jax.Array, positions_BT: jax.Array) -> dict:
        """Returns the cache after these entries."""

        def newest(old, new):
            return jnp.concatenate([old, new], axis=1)[:, new.shape[1] :]

        document_B = jnp.maximum(cache["document"], jnp.max(segments_BT, axis=1))
        next_B = jnp.max(jnp.where(segments_BT == document_B[:, None], positions_BT + 1, 0), axis=1)
        return {
            "inputs": tuple(newest(old, new) for old, new in zip(cache["inputs"], inputs, strict=True)),
            "segments": newest(cache["segments"], segments_BT),
            "document": document_B,
            "position": jnp.where(document_B == cache["document"], jnp.maximum(cache["position"], next_B), next_B),
        }

    def unembed(self, hidden_BTE: jax.Array, embedding: Embedding | None = None) -> jax.Array:
        """Returns float32 logits_BTV of the hidden states that `return_hidden` gives; if tied, by `embedding` where one is given."""
        if self.tie_embeddings:
            return (embedding or self.token_embedding).attend(hidden_BTE)
        return self.unembedding(hidden_BTE)

    def prepare(self, memory: Memory) -> Memory:
        """Returns the memory with what every layer reads at every step: (keys_BSE, values_BSE)."""
        read = memory.without_padding()
        values_BSE = self.memory_value(read.values_BSD)
        if read.embeddings_BSD is not None:
            values_BSE = (values_BSE + self.memory_embedding(read.embeddings_BSD)) * math.sqrt(0.5)
        return memory.replace(prepared=(self.memory_key(read.values_BSD), values_BSE))

    def init_cache(self, batch_size: int, max_length: int) -> dict[str, Any]:
        """Returns an empty cache; its size does not depend on `max_length`. Errors: UserError beyond the learned positions."""
        if self.position == "learned" and max_length > self.max_length:
            raise UserError(f"a context of {max_length} tokens exceeds the {self.max_length} learned positions of this model.")
        shape = (batch_size, self.kernel_size - 1, self.width)
        return {
            "inputs": tuple(jnp.zeros(shape, self.dtype) for _ in range(self.num_layers)),
            "segments": jnp.zeros((batch_size, self.kernel_size - 1), jnp.int32),  # of those inputs
            "document": jnp.zeros((batch_size,), jnp.int32),  # the newest segment
            "position": jnp.zeros((batch_size,), jnp.int32),  # of the next entry of that document
        }
