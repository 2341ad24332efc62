"""The intent of an utterance and its slots at once.

Raw item: {"words": [str], "tags": [str], "label": str}. Batch keys: those of tasks/tagging.py, and label int32 [B], -1 where the item has
none: its intent counts for nothing.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError, unknown
from decoder_lab.data import labels
from decoder_lab.data.tagged_words import TaggedWords
from decoder_lab.layers.tagging import Scores, best_tags, tag_losses
from decoder_lab.ops.cross_entropy import cross_entropy

OUTPUT = "an intent and tags"  # of the models that it trains

NUMBERS = ("loss", "slot_loss", "intent_loss", "intent_accuracy", "tag_accuracy")  # of evaluation


def problems(kw) -> list[str]:
    """A word has characters, and a weight is not negative."""
    found = []
    if kw["max_characters"] < 2:
        found.append(f"max_characters: got {kw['max_characters']}, expected 2 or more.")
    if kw["intent_weight"] < 0:
        found.append(f"intent_weight: got {kw['intent_weight']}, expected 0 or more.")
    return found


@dataclasses.dataclass(frozen=True)
class Task(TaggedWords):
    """The loss is a sum, -log p(tags) + intent_weight * -log p(intent), a row.

    Attributes:
      intent_weight: weight of the intent's loss.
    """

    intent_weight: float = 1.0

    def fit(self, items: Iterable[dict]) -> dict:
        """Returns the train split's tags, scheme, characters and intents. Errors: UserError where an item has none, or all have one."""
        facts = super().fit(_labelled(items))
        if len(facts["labels"]) < 2:
            raise UserError(f'task: expected two or more intents in field "label" of the train split, got {facts["labels"]}.')
        return facts

    def sizes(self) -> dict[str, int]:
        """What the model is to be told."""
        return {**super().sizes(), "num_classes": len(self.labels)}

    def example(self, raw: dict) -> list[dict[str, np.ndarray]]:
        """Raw item -> the examples of its parts, each with the intent. Errors: UserError for an intent that the train split has not."""
        number = np.int32(-1)
        if "label" not in raw:
            self._count('items without a field "label" (their intent counts for nothing)')
        elif labels.text(raw["label"], "label") and raw["label"] not in self.labels:
            raise UserError(unknown("task: label", raw["label"], self.labels))
        else:
            number = np.int32(self.labels.index(raw["label"]))
        return [{**part, "label": number} for part in super().example(raw)]

    def forward(self, model: Any, batch: dict, deterministic: bool) -> Scores:
        """Returns the model's scores of a batch."""
        names = dict(segments_BS="segments", starts_BW="starts", words_BW="words", chars_BWK="chars")
        return model(batch["tokens"], **{k: batch[name] for k, name in names.items()}, deterministic=deterministic)

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)}: the loss a row, its two parts, and in evaluation the shares of right intents and tags."""
        del progress
        scores = self._scores(model, params, batch, rng)
        words_BW = batch["words"] * (batch["weights"] != 0)
        real_B = jnp.any(words_BW != 0, axis=1).astype(jnp.float32)
        slots = jnp.sum(tag_losses(scores, batch["tags"], words_BW))
        intents = cross_entropy(scores.intent_BI, batch["label"], real_B * (batch["label"] >= 0))
        rows = jnp.sum(real_B)
        found = {
            "loss": (slots + self.intent_weight * intents.loss, rows),
            "slot_loss": (slots, rows),
            "intent_loss": (intents.loss, intents.weight),
            "intent_accuracy": (intents.correct, intents.weight),
        }
        if rng is None:
            right_BW = (best_tags(scores, words_BW, self._allowed(scores)) == batch["tags"]) & (words_BW != 0)
            found["tag_accuracy"] = (jnp.sum(right_BW).astype(jnp.float32), jnp.sum(words_BW).astype(jnp.float32))
        return found

    def predict(self, model: Any, params: Any, batch: dict) -> dict[str, jax.Array]:
        """Returns tags, int32 [B, W], and intent, float32 log-probabilities [B, I]."""
        scores = self._scores(model, params, batch, None)
        return {"tags": best_tags(scores, batch["words"], self._allowed(scores)), "intent": jax.nn.log_softmax(scores.intent_BI, axis=-1)}

    def decode(self, predictions: Any, batch: dict) -> list[dict]:
        """Returns {"label", "score" (its log-probability), "tags"} a row."""
        rows = []
        for tags_W, intent_I, words_W in zip(predictions["tags"], predictions["intent"], np.asarray(batch["words"]), strict=True):
            best = int(np.argmax(intent_I))
            tags = [self.tags[c] for c in np.asarray(tags_W)[words_W != 0]]
            rows.append({"label": self.labels[best], "score": float(intent_I[best]), "tags": tags})
        return rows

    def join(self, raw: dict, parts: list[dict]) -> dict:
        """Puts an item's parts together: all tags, and the intent that a part is surest of."""
        surest = max(parts, key=lambda part: part["score"])
        return {"label": surest["label"], "score": surest["score"], "tags": super().join(raw, [part["tags"] for part in parts])}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means as they are."""
        del rows
        return means

    def _allowed(self, scores: Scores) -> Any:
        return self.allowed() if scores.transitions is not None else None

    def _scores(self, model: Any, params: Any, batch: dict, rng: jax.Array | None) -> Scores:
        rngs = None if rng is None else {"dropout": rng}
        return model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)


def _labelled(items: Iterable[dict]) -> Iterator[dict]:
    """Yields the items. Errors: UserError for one without an intent: it would be trained for another's."""
    for raw in items:
        if "label" not in raw:
            words = " ".join(map(str, raw.get("words", [])))[:60]
            raise UserError(f'task: the item "{words}" has no intent in field "label"; every one of the train split needs it.')
        labels.text(raw["label"], "label")
        yield raw
