"""Convolutional encoders: parallel windows of several widths (Kim 2014), or a residual stack of gated ones (Gehring et al. 2017)."""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.convolution import Convolution, GatedConvolution
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.memory import Memory
from decoder_lab.ops import masks

VARIANTS = {
    "kim2014": dict(style="kim2014", embedding_dim=300, widths=(3, 4, 5), filters=100),
    # Gehring et al. 2017, section 4.2: both sides of WMT'16 English-Romanian have 20 such layers
    "convs2s": dict(style="stack", embedding_dim=512, width=512, kernel_size=3, num_layers=20, dropout=0.1),
    # the small one of its authors' examples, for IWSLT'14 German-English
    "convs2s-small": dict(style="stack", embedding_dim=256, width=256, kernel_size=3, num_layers=4, dropout=0.2),
}


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = []
    for name in ("embedding_dim", "filters", "width", "kernel_size", "num_layers"):
        if kw[name] < 1:
            found.append(f"{name} must be at least 1, got {kw[name]}")
    if not kw["widths"] or min(kw["widths"]) < 1:
        found.append(f"widths must be one or more window widths of at least 1, got {kw['widths']}")
    for name in ("dropout", "embedding_dropout"):
        if not 0 <= kw[name] < 1:
            found.append(f"{name} must be at least 0 and below 1, got {kw[name]}")
    return found


class Encoder(nn.Module):
    """tokens_BS -> Memory.

    style "kim2014": a ReLU feature map for every window width in `widths`, `filters` each, concatenated a position; max-pooling them over
    time gives the model of Kim 2014, with windows also over the edges of the text, where what is missing counts as zero.
    style "stack": embeddings of tokens and positions, mapped to `width`, then `num_layers` blocks x + GLU(convolution(x)), each scaled by
    sqrt(1/2) (Gehring et al. 2017, without weight normalisation); its memory keeps the embeddings for ConvS2S's decoder. Value t sees
    `num_layers * (kernel_size - 1) / 2` positions to either side.
    No window reads padding or another document.
    """

    vocab_size: int
    max_length: int
    dtype: jnp.dtype
    variant: str = ""
    style: Literal["kim2014", "stack"] = "kim2014"
    embedding_dim: int = 128
    embedding_stddev: float = 0.1
    embedding_dropout: float = 0.0
    widths: tuple[int, ...] = (3, 4, 5)  # kim2014
    filters: int = 100  # kim2014: feature maps a window width
    width: int = 256  # stack
    kernel_size: int = 3  # stack
    num_layers: int = 4  # stack
    position: Literal["learned", "none"] = "learned"  # stack
    dropout: float = 0.0  # stack: of the input of every block

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
        """Returns the memory of [B, S, len(widths) * filters] or [B, S, width] values; extra_BSE is concatenated to the embeddings."""
        if types_BS is not None:
            raise ValueError("a convolutional encoder has no token types: types_BS must be None")
        if segments_BS is None:
            segments_BS = jnp.ones(tokens_BS.shape, jnp.int32)
        if embedding is None:
            embedding = Embedding(self.vocab_size, self.embedding_dim, self.embedding_stddev, self.dtype, name="token_embedding")
        # whatever stands in padding, a wild index included, must not become a NaN that reaches a gradient
        x_BSD = embedding(jnp.where(segments_BS == 0, 0, tokens_BS))
        if self.style == "stack" and self.position == "learned":
            x_BSD += self._positions(segments_BS, positions_BS, x_BSD.shape[-1])
        if extra_BSE is not None:
            x_BSD = jnp.concatenate([x_BSD, extra_BSE.astype(self.dtype)], axis=-1)
        x_BSD = Dropout(self.embedding_dropout, name="embedding_dropout")(x_BSD, deterministic)
        if self.style == "kim2014":
            maps = [
                nn.relu(Convolution(self.filters, k, gain=2.0, dtype=self.dtype, name=f"width_{k}")(x_BSD, segments_BS))
                for k in self.widths
            ]
            return Memory(jnp.concatenate(maps, axis=-1), segments_BS)
        return Memory(self._stack(x_BSD, segments_BS, deterministic), segments_BS, embeddings_BSD=x_BSD)

    def _positions(self, segments_BS: jax.Array, positions_BS: jax.Array | None, features: int) -> jax.Array:
        length = segments_BS.shape[1]
        if positions_BS is None:
            if length > self.max_length:
                raise ValueError(f"{length} tokens exceed the {self.max_length} learned positions")
            positions_BS = masks.positions_in_segments(segments_BS)
        table = Embedding(self.max_length, features, self.embedding_stddev, self.dtype, name="position_embedding")
        return table(jnp.where(segments_BS == 0, 0, positions_BS))

    def _stack(self, x_BSD: jax.Array, segments_BS: jax.Array, deterministic: bool) -> jax.Array:
        y_BSF = Linear(self.width, True, x_BSD.shape[-1] ** -0.5, self.dtype, name="input")(x_BSD)
        for i in range(self.num_layers):
            block = GatedConvolution(self.width, self.kernel_size, False, self.dropout, self.dtype, name=f"layer_{i}")
            y_BSF = (y_BSF + block(y_BSF, segments_BS, deterministic=deterministic)) * math.sqrt(0.5)
        return y_BSF
