"""A classifier of texts: any encoder, pooled to one vector, and a head.

Reads from a batch: "tokens" int32 [B, S], "segments" (0 is padding); for pairs whose encoder has them "types" int32 [B, S]; and with
`character_dim` "chars" int32 [B, S, K], the characters of each token, 0 in padding.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Plugin
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.memory import Memory
from decoder_lab.layers.ngrams import CharacterNgrams
from decoder_lab.layers.pooling import Pooling

OUTPUT = "labels"  # what it gives: a task of the same OUTPUT trains it

VARIANTS = {
    # fastText (Joulin et al. 2016): the mean of token and bigram embeddings, and a linear layer
    "bag": dict(encoder=dict(name="bag_of_embeddings", kw=dict(embedding_dim=128, ngrams=2, dropout=0.5)), pooling="mean", dropout=0.3),
    # Kim 2014, "CNN-rand": windows of 3, 4, 5 words with 100 maps each, dropout of a half before the last layer
    "cnn": dict(encoder=dict(name="convolutional", kw=dict(variant="kim2014", embedding_dropout=0.3)), pooling="max", dropout=0.5),
    "lstm": dict(
        encoder=dict(name="recurrent", kw=dict(cell="lstm", width=128, bidirectional=True, dropout=0.5)), pooling="max", dropout=0.5
    ),
    # Yang et al. 2016, its word level: bidirectional GRU and attention
    "gru": dict(
        encoder=dict(name="recurrent", kw=dict(cell="gru", width=128, bidirectional=True, dropout=0.5)), pooling="attention", dropout=0.5
    ),
    "transformer": dict(
        encoder=dict(name="transformer", kw=dict(num_layers=2, num_heads=4, width=128, dropout=0.3)), pooling="mean", dropout=0.3
    ),
    # BERT (Devlin et al. 2019): the first position through a tanh layer ("pooler") as wide as the encoder, dropout and a linear layer
    "bert": dict(encoder=dict(name="transformer", kw=dict(variant="bert-base")), pooling="first", head="tanh", dropout=0.1),
}


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = [f"{name} must be at least 0, got {kw[name]}" for name in ("head_dim", "attention_dim", "character_dim") if kw[name] < 0]
    if kw["head"] == "linear" and kw["head_dim"]:
        found.append(f'head_dim {kw["head_dim"]} needs a hidden layer: head="tanh" or head="relu"')
    if kw["attention_dim"] and kw["pooling"] != "attention":
        found.append(f'attention_dim {kw["attention_dim"]} needs pooling="attention", got "{kw["pooling"]}"')
    if not kw["character_orders"] or min(kw["character_orders"]) < 1 or kw["character_buckets"] < 1:
        found.append(f"character_orders and character_buckets must be 1 or more, got {kw['character_orders']}, {kw['character_buckets']}")
    for name in ("dropout", "character_dropout"):
        if not 0 <= kw[name] < 1:
            found.append(f"{name} must be at least 0 and below 1, got {kw[name]}")
    return found


class Model(nn.Module):
    """tokens_BS -> logits_BC, C = `num_labels`. The encoder's parameters are below `encoder/`, where those of a pretrained one go.

    Pooling as in `layers/pooling.py`, or "state": the final state of a recurrent encoder's last layer, both directions.
    """

    vocab_size: int
    num_labels: int
    max_length: int
    dtype: jnp.dtype
    variant: str = ""
    encoder: Plugin["encoder"] = dataclasses.field(default_factory=lambda: dict(name="recurrent", kw={}))
    pooling: Literal["mean", "max", "first", "last", "attention", "max_mean", "state"] = "mean"
    attention_dim: int = 0  # of attention pooling; 0: as wide as the encoder
    character_dim: int = 0  # width of hashed character n-grams of each token, concatenated to its embedding; 0: none
    character_orders: tuple[int, ...] = (3, 4, 5)
    character_buckets: int = 32768
    character_dropout: float = 0.0  # of whole n-grams
    head: Literal["linear", "tanh", "relu"] = "linear"  # what stands before the last linear layer: nothing, or a hidden layer
    head_dim: int = 0  # of that hidden layer; 0: as wide as what is pooled
    dropout: float = 0.0  # before the last layer

    def setup(self):
        given = dict(vocab_size=self.vocab_size, max_length=self.max_length, dtype=self.dtype)
        # the field has the name "encoder" already, the parameters shall have it too
        self._encoder = lookup.make("encoder", self.encoder, **given).clone(parent=self, name="encoder")
        if self.pooling != "state":
            self.pool = Pooling(self.pooling, self.attention_dim, self.dtype)

    @nn.compact
    def __call__(
        self,
        tokens_BS: jax.Array,
        *,
        segments_BS: jax.Array | None = None,
        types_BS: jax.Array | None = None,
        chars_BSK: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns float32 logits_BC."""
        places = dict(segments_BS=segments_BS, types_BS=types_BS)
        if (chars_BSK is None) != (self.character_dim == 0):
            raise UserError("model.kw.character_dim and task.kw.characters belong together: set both, or neither.")
        if chars_BSK is not None:
            shape = self.character_dim, self.character_orders, self.character_buckets
            places["extra_BSE"] = CharacterNgrams(*shape, 0.1, self.character_dropout, self.dtype, name="characters")(
                chars_BSK, deterministic
            )
        memory = self._encoder(tokens_BS, **places, deterministic=deterministic)
        x_BD = self._pooled(memory)
        if self.head != "linear":
            activation = {"tanh": jnp.tanh, "relu": nn.relu}[self.head]
            width = x_BD.shape[-1]
            x_BD = activation(Linear(self.head_dim or width, True, width**-0.5, self.dtype, name="hidden")(x_BD))
        x_BD = Dropout(self.dropout, name="dropout")(x_BD, deterministic)
        return Linear(self.num_labels, True, 0.02, self.dtype, jnp.float32, name="output")(x_BD)

    def _pooled(self, memory: Memory) -> jax.Array:
        if self.pooling != "state":
            return self.pool(memory.values_BSD, memory.segments_BS)
        if not memory.states:
            raise UserError(f'pooling="state" needs an encoder with final states, such as recurrent; {self.encoder["name"]} has none.')
        state = memory.states[-1]
        return state[1] if isinstance(state, tuple) else state  # (c_BD, h_BD) of an LSTM

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        return f"{self.encoder['name']} encoder, {self.pooling} pooling, {self.num_labels} labels"
