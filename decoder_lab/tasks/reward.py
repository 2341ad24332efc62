"""A reward model: one number for a conversation, greater for the chosen one of two answers.

Raw item: as of the task `preference`; for predictions alone "messages" or "source" and "target" are enough. Batch keys: tokens, segments
int32 [B,T,2], the chosen side first; weights float32 [B], 0 in filler rows. The model is one that puts out a number: `classifier` (any
encoder) or `decoder_classifier` (any decoder).
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.data import conversation, preferences
from decoder_lab.ops import preference

OUTPUT = "labels"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "margin")  # of evaluation


def problems(kw) -> list[str]:
    """The margin is a distance."""
    return [] if kw["margin"] >= 0 else [f"margin: got {kw['margin']}, expected 0 or more."]


@dataclasses.dataclass(frozen=True)
class Task:
    """Scores by which the chosen answer wins (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1).

    Attributes:
      tokenizer: given by the lab. Its chat template says how a conversation is written, see `data/conversation.py`.
      length: given by the lab: longest row in tokens. Longer conversations lose their beginning, so that the end of the answer is read.
      margin: by how much the chosen answer's score is to be the greater one.
      system, template: as in the task `instruction`.
    """

    tokenizer: Any
    length: int
    margin: float = 0.0
    system: str = ""
    template: Literal["auto", "plain"] = "auto"

    batching = "examples"
    gold_fields = ()  # an answer is what is looked at
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to cut

    @functools.cached_property
    def _format(self) -> conversation.Format:
        return conversation.Format(self.tokenizer, self.template)

    def sizes(self) -> dict[str, int]:
        """One number a conversation."""
        return {"num_labels": 1}

    def texts(self, raw: dict) -> Iterator[str]:
        """What `tokenizer` learns from."""
        chosen, rejected = preferences.conversations(raw, self.system)
        yield from (message["content"] for message in [*chosen, rejected[-1]])

    def example(self, raw: dict) -> dict[str, np.ndarray]:
        """Raw pair, or one conversation twice, to be scored -> the features of one example."""
        sides = self._sides(raw)
        if max(map(len, sides)) > self.length:
            what = f"conversations of more than {self.length} tokens (sequence_length) cut at the beginning"
            self.counts[what] = self.counts.get(what, 0) + sum(len(ids) > self.length for ids in sides)
        made = [dict(tokens=ids[-self.length :], segments=np.ones(min(len(ids), self.length), np.int32)) for ids in sides]
        return {**preferences.stacked(*made), "weights": np.float32({"chosen", "rejected"} <= raw.keys())}

    def extent(self, raw: dict) -> tuple[int, int]:
        """Returns the tokens of an item's conversations, and how many of them the model does not see."""
        sides = self._sides(raw) if {"chosen", "rejected"} <= raw.keys() else self._sides(raw)[:1]
        return sum(map(len, sides)), sum(max(0, len(ids) - self.length) for ids in sides)

    def _sides(self, raw: dict) -> list[np.ndarray]:
        """Returns the ids of the chosen and the rejected conversation, or of the only one twice."""
        if {"chosen", "rejected"} <= raw.keys():
            return [ids for ids, _ in preferences.encoded(self._format, raw, self.system)]
        return [self._format.encode(conversation.messages_of(raw, self.system)).ids] * 2

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        return f"reward 1 {self.length} {self.system!r} {self._format.fingerprint()}"

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {name: np.ones((1, 1, 2), np.int32) for name in ("tokens", "segments")}

    def forward(self, model: Any, batch: dict, deterministic: bool) -> jax.Array:
        """Returns float32 scores_B2."""
        segments_RS = preferences.rows(batch["segments"])
        scores_R1 = model(preferences.rows(batch["tokens"]), segments_BS=segments_RS, deterministic=deterministic)
        return scores_R1.reshape(-1, 2)

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)} over pairs: loss, accuracy (the chosen answer's score is the greater one), margin."""
        del progress
        scores_B2, weights_B = self._scores(model, params, batch, rng), batch["weights"]
        pairs = preference.bradley_terry(scores_B2[:, 0], scores_B2[:, 1], margin=self.margin)
        found = dict(loss=pairs.loss_B, accuracy=(pairs.margin_B > 0).astype(jnp.float32), margin=pairs.margin_B)
        return {name: (jnp.sum(jnp.where(weights_B == 0, 0.0, x_B * weights_B)), jnp.sum(weights_B)) for name, x_B in found.items()}

    def predict(self, model: Any, params: Any, batch: dict) -> jax.Array:
        """Returns float32 scores_B2."""
        return self._scores(model, params, batch, None)

    def decode(self, predictions: Any, batch: dict) -> list[dict]:
        """Returns one {"chosen": score, "rejected": score} a pair, or {"score": score} of a single conversation."""
        scores = np.asarray(predictions, np.float64).round(6).tolist()
        pairs = np.asarray(batch["weights"]) != 0
        return [{"chosen": a, "rejected": b} if pair else {"score": a} for (a, b), pair in zip(scores, pairs, strict=True)]

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means."""
        del rows
        return means

    def _scores(self, model: Any, params: Any, batch: dict, rng: jax.Array | None) -> jax.Array:
        rngs = None if rng is None else {"dropout": rng}
        return model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)
