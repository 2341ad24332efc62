"""What taggers of words share: any encoder, characters of the words beside it, and a linear layer or a linear-chain CRF on top.

Axis W: words. A word is one token or several; its first token carries its tag.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from decoder_lab.core import lookup
from decoder_lab.core.lookup import Plugin
from decoder_lab.layers.characters import Characters
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.memory import Memory
from decoder_lab.ops import crf
from decoder_lab.ops.tag_schemes import Transitions


@struct.dataclass
class Scores:
    """What a tagger says of a batch: float32 emissions_BWC, the CRF's transitions (None without), and intent_BI of a joint model (None)."""

    emissions_BWC: jax.Array
    transitions: Transitions | None = None
    intent_BI: jax.Array | None = None


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = []
    if kw["characters"] == "lstm" and kw["character_features"] % 2:
        found.append(f'characters="lstm" has two directions: character_features must be even, got {kw["character_features"]}')
    for name in ("character_dim", "character_features"):
        if kw[name] < 1:
            found.append(f"{name} must be at least 1, got {kw[name]}")
    if kw["head_dim"] < 0:
        found.append(f"head_dim must be at least 0, got {kw['head_dim']}")
    for name in ("dropout", "character_dropout"):
        if not 0 <= kw[name] < 1:
            found.append(f"{name} must be at least 0 and below 1, got {kw[name]}")
    return found


def tag_losses(scores: Scores, tags_BW: jax.Array, words_BW: jax.Array, allowed: Transitions | None = None) -> jax.Array:
    """Returns float32 loss_B of each row, a sum over its words: -log p(tags), of the CRF or of each tag by itself; nats.

    allowed: transitions outside of which the CRF gives no probability (`ops.tag_schemes.allowed`).
    """
    if scores.transitions is not None:
        return -crf.log_likelihood(scores.emissions_BWC, tags_BW, words_BW, crf.constrained(scores.transitions, allowed))
    log_probabilities_BWC = jax.nn.log_softmax(scores.emissions_BWC, axis=-1)
    tags_BW = jnp.where(words_BW != 0, tags_BW, 0)
    nll_BW = -jnp.take_along_axis(log_probabilities_BWC, tags_BW[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(words_BW != 0, nll_BW, 0.0), axis=1)


def best_tags(scores: Scores, words_BW: jax.Array, allowed: Transitions | None = None) -> jax.Array:
    """Returns int32 tags_BW, 0 where there is no word: the CRF's best path, or each word's best tag.

    allowed: the best path by emissions alone that keeps to these transitions, also without a CRF; None allows everything.
    """
    transitions = scores.transitions
    if transitions is None and allowed is None:
        best_BW = jnp.argmax(scores.emissions_BWC, axis=-1).astype(jnp.int32)
        return jnp.where(words_BW != 0, best_BW, 0)
    if transitions is None:
        transitions = Transitions(*(jnp.zeros(jnp.shape(x), jnp.float32) for x in allowed))
    return crf.viterbi(scores.emissions_BWC, words_BW, crf.constrained(transitions, allowed))[0]


def of_tokens(features_BWE: jax.Array, starts_BW: jax.Array, words_BW: jax.Array, segments_BS: jax.Array) -> jax.Array:
    """Returns features_BSE: for every token those of the word that it is a piece of, zeros where there is no word, and in padding.

    A word reaches to the next one's start, the last word to the end of what is not padding (segment 0).
    """
    place_S = jnp.arange(segments_BS.shape[1], dtype=starts_BW.dtype)
    begun_BSW = (starts_BW[:, None] <= place_S[None, :, None]) & (words_BW[:, None] != 0)
    word_BS = jnp.sum(begun_BSW, axis=2, dtype=jnp.int32) - 1
    found_BSE = jnp.take_along_axis(features_BWE, jnp.maximum(word_BS, 0)[..., None], axis=1)
    of_word_BS = (word_BS >= 0) & (segments_BS != 0)
    return jnp.where(of_word_BS[..., None], found_BSE, jnp.zeros((), features_BWE.dtype))


class Tagger(nn.Module):
    """The base of models that tag words. The encoder's parameters are below `encoder/`, where those of a pretrained one go."""

    vocab_size: int
    num_labels: int
    char_vocab_size: int
    max_length: int
    dtype: jnp.dtype
    encoder: Plugin["encoder"] = dataclasses.field(default_factory=lambda: dict(name="recurrent", kw={}))
    characters: Literal["none", "cnn", "lstm"] = "none"
    character_dim: int = 30  # width of a character's embedding
    character_features: int = 30  # width of what is made of a word's characters
    character_dropout: float = 0.0  # of characters' embeddings
    head_dim: int = 0  # a hidden tanh layer before the emissions; 0: none
    crf: bool = True
    dropout: float = 0.0  # before the head

    def setup(self):
        given = dict(vocab_size=self.vocab_size, max_length=self.max_length, dtype=self.dtype)
        # the field has the name "encoder" already, the parameters shall have it too
        self._encoder = lookup.make("encoder", self.encoder, **given).clone(parent=self, name="encoder")

    def encode(
        self,
        tokens_BS: jax.Array,
        segments_BS: jax.Array | None,
        starts_BW: jax.Array,
        words_BW: jax.Array,
        chars_BWK: jax.Array | None,
        deterministic: bool,
    ) -> tuple[Memory, jax.Array]:
        """Returns the encoder's memory and, after dropout, the vector of each word's first token, x_BWD."""
        extra_BSE = None
        if self.characters != "none":
            if chars_BWK is None:
                raise ValueError(f'characters="{self.characters}" needs the batch key "chars"; the batch has none')
            kw = dict(kind=self.characters, embedding_dim=self.character_dim, features=self.character_features)
            characters = Characters(self.char_vocab_size, **kw, dropout=self.character_dropout, dtype=self.dtype, name="characters")
            real_BS = jnp.ones(tokens_BS.shape, jnp.int32) if segments_BS is None else segments_BS
            extra_BSE = of_tokens(characters(chars_BWK, deterministic), starts_BW, words_BW, real_BS)
        memory = self._encoder(tokens_BS, segments_BS=segments_BS, extra_BSE=extra_BSE, deterministic=deterministic)
        x_BWD = jnp.take_along_axis(memory.values_BSD, starts_BW[..., None], axis=1)
        # what stands at padding is undefined: it must not reach a gradient
        x_BWD = jnp.where((words_BW != 0)[..., None], x_BWD, jnp.zeros((), x_BWD.dtype))
        return memory, Dropout(self.dropout, name="dropout")(x_BWD, deterministic)

    def tag(self, x_BWD: jax.Array) -> Scores:
        """Returns the emissions of words' vectors, and the transitions where there is a CRF."""
        if self.head_dim:
            x_BWD = jnp.tanh(Linear(self.head_dim, True, x_BWD.shape[-1] ** -0.5, self.dtype, name="hidden")(x_BWD))
        emissions_BWC = Linear(self.num_labels, True, 0.02, self.dtype, jnp.float32, name="emission")(x_BWD)
        if not self.crf:
            return Scores(emissions_BWC)
        shapes = dict(between=(self.num_labels,) * 2, start=(self.num_labels,), end=(self.num_labels,))
        values = {name: self.param(f"crf_{name}", nn.initializers.zeros, shape, jnp.float32) for name, shape in shapes.items()}
        return Scores(emissions_BWC, Transitions(*values.values()))
