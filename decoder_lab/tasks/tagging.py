"""Tagging of words: named entities, slots, parts of speech.

Raw item: {"words": [str], "tags": [str]}. Batch keys: tokens, segments int32 [B,S]; starts (place of each word's first token), words (1 at
a word, 0 in padding), tags int32 [B,W]; chars int32 [B,W,K]; weights float32 [B,W].
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data.tagged_words import TaggedWords
from decoder_lab.layers.tagging import Scores, best_tags, tag_losses
from decoder_lab.ops import tag_schemes

OUTPUT = "tags"  # of the models that it trains

NUMBERS = ("loss", "accuracy")  # of evaluation


def problems(kw) -> list[str]:
    """A word has characters, and a rate is a share."""
    found = []
    if kw["max_characters"] < 2:
        found.append(f"max_characters: got {kw['max_characters']}, expected 2 or more.")
    if not 0 <= kw["word_dropout"] < 1:
        found.append(f"word_dropout: got {kw['word_dropout']}, expected a share in [0, 1).")
    return found


@dataclasses.dataclass(frozen=True)
class Task(TaggedWords):
    """The loss is -log p(tags) a word: of the CRF where the model has one, of each tag by itself otherwise.

    Attributes:
      word_dropout: share of the tokens that stand as the tokenizer's unknown token while training, for tokenizers that have one.
      constrained_training: whether the CRF gives no probability to what the scheme forbids while training too. Examples whose tags it
        forbids (a split that breaks the scheme, tags that the train split does not have, a span cut at `length`) then have weight 0: they
        count for neither loss nor accuracy, but are predicted. How many there are is said.
      decoding: "viterbi" is the best path that keeps to the scheme, "argmax" each word's best tag; "auto" is the former with a CRF, the
        latter without.
    """

    word_dropout: float = 0.0
    constrained_training: bool = False
    decoding: Literal["auto", "viterbi", "argmax"] = "auto"

    def __post_init__(self):
        if self.word_dropout and getattr(self.tokenizer, "unknown_id", None) is None:
            raise UserError("task.kw.word_dropout: the tokenizer has no unknown token. Use the word tokenizer, or set it to 0.")

    def example(self, raw: dict) -> list[dict[str, np.ndarray]]:
        """Raw item -> the examples of its parts; where training is constrained, with weight 0 where their tags are forbidden."""
        parts = super().example(raw)
        for part in parts if self.constrained_training and self.found_scheme != "none" else ():
            names = [self.tags[number] for number in part["tags"]]
            if part["weights"].any() and tag_schemes.first_violation(names, self.found_scheme) is not None:
                self._count("sentences or parts of them whose tags constrained_training forbids (they have weight 0)")
                part["weights"] = np.zeros_like(part["weights"])
        return parts

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        return f"{super().fingerprint()} {self.constrained_training}"

    def forward(self, model: Any, batch: dict, deterministic: bool) -> Scores:
        """Returns the model's scores of a batch."""
        tokens_BS = batch["tokens"]
        if self.word_dropout and not deterministic:
            drop_BS = jax.random.bernoulli(model.make_rng("dropout"), self.word_dropout, tokens_BS.shape)
            tokens_BS = jnp.where(drop_BS, self.tokenizer.unknown_id, tokens_BS)
        names = dict(segments_BS="segments", starts_BW="starts", words_BW="words", chars_BWK="chars")
        return model(tokens_BS, **{k: batch[name] for k, name in names.items()}, deterministic=deterministic)

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)}: the loss a word and, in evaluation, the share of right tags."""
        del progress
        scores = self._scores(model, params, batch, rng)
        words_BW = batch["words"] * (batch["weights"] != 0)
        num_words = jnp.sum(words_BW).astype(jnp.float32)
        allowed = self.allowed() if self.constrained_training else None
        found = {"loss": (jnp.sum(tag_losses(scores, batch["tags"], words_BW, allowed)), num_words)}
        if rng is None:
            right_BW = (self._best(scores, words_BW) == batch["tags"]) & (words_BW != 0)
            found["accuracy"] = (jnp.sum(right_BW).astype(jnp.float32), num_words)
        return found

    def predict(self, model: Any, params: Any, batch: dict) -> jax.Array:
        """Returns the numbers of the best tags, int32 [B, W]."""
        return self._best(self._scores(model, params, batch, None), batch["words"])

    def decode(self, predictions: Any, batch: dict) -> list[list[str]]:
        """Returns the tags of each row's words."""
        rows = zip(np.asarray(predictions), np.asarray(batch["words"]), strict=True)
        return [[self.tags[c] for c in tags_W[words_W != 0]] for tags_W, words_W in rows]

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means as they are."""
        del rows
        return means

    def _scores(self, model: Any, params: Any, batch: dict, rng: jax.Array | None) -> Scores:
        rngs = None if rng is None else {"dropout": rng}
        return model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)

    def _best(self, scores: Scores, words_BW: jax.Array) -> jax.Array:
        if self.decoding == "argmax":
            return best_tags(scores.replace(transitions=None), words_BW)
        path = self.decoding == "viterbi" or scores.transitions is not None
        return best_tags(scores, words_BW, self.allowed() if path else None)
