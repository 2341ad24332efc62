"""Extractive question answering: the answer is a span of the context, or there is none.

Raw item: {"id": str, "question": str, "context": str, "answers": [{"text": str, "start": int}]}, without answers: the context has none;
start -1: the text stands nowhere in it. Batch keys: tokens, segments, types (1 in the context), context (1 where an answer may stand) int32
[B,S]; question int32 [B,Q], 1 at the question, which begins the row; offsets int32 [B,S,2], each token's characters of the context; start,
end int32 [B], the answer's first and last token, 0: not in this row; weights float32 [B]; and with max_characters chars int32 [B,S,K].
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.data.question_windows import QuestionWindows

OUTPUT = "spans"  # of the models that it trains

NUMBERS = ("loss", "start_accuracy", "end_accuracy", "span_accuracy")  # of evaluation

MASKED = -1e9  # a logit that no real one comes near, finite so that its gradient is


def problems(kw, length) -> list[str]:
    """Lengths are counted from 1, characters may be left out, and a row has room for a question and something of its context."""
    names = ("stride", "max_question_length", "max_answer_length")
    found = [f"{name}: got {kw[name]}, expected 1 or more." for name in names if kw[name] < 1]
    if kw["max_characters"] < 0:
        found.append(f"max_characters: got {kw['max_characters']}, expected 0 (none) or more.")
    if length is not None and length < kw["max_question_length"] + 4:
        found.append(
            f"max_question_length: sequence_length={length} leaves no room beside a question of {kw['max_question_length']} tokens. Raise "
            "--config.sequence_length, or lower the other."
        )
    return found


@dataclasses.dataclass(frozen=True)
class Task(QuestionWindows):
    """The loss is the mean of -log p(start) and -log p(end), over the positions of the context and position 0, which means "not here".

    Attributes:
      max_answer_length: most tokens of a predicted answer.
    """

    max_answer_length: int = 30

    def forward(self, model: Any, batch: dict, deterministic: bool) -> jax.Array:
        """Returns float32 logits [B, S, 2] of the answer's first and last token."""
        fields = dict(segments_BS=batch["segments"], types_BS=batch["types"], question_BQ=batch["question"], chars_BSK=batch.get("chars"))
        return model(batch["tokens"], **fields, deterministic=deterministic)

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)} over rows: the loss, and the shares of right starts, ends and whole spans."""
        del progress
        log_p_BS2 = self._log_probabilities(model, params, batch, rng)
        gold_B12 = jnp.stack([batch["start"], batch["end"]], axis=-1)[:, None]
        nll_B2 = -jnp.take_along_axis(log_p_BS2, gold_B12, axis=1)[:, 0]
        right_B2 = jnp.argmax(log_p_BS2, axis=1) == gold_B12[:, 0]
        weights_B, total = batch["weights"], jnp.sum(batch["weights"])

        def summed(x_B):
            return jnp.sum(jnp.where(weights_B == 0, 0.0, x_B * weights_B)), total

        found = {"start_accuracy": right_B2[:, 0], "end_accuracy": right_B2[:, 1], "span_accuracy": jnp.all(right_B2, axis=1)}
        return {"loss": summed(jnp.mean(nll_B2, axis=1))} | {name: summed(x.astype(jnp.float32)) for name, x in found.items()}

    def predict(self, model: Any, params: Any, batch: dict) -> dict[str, jax.Array]:
        """Returns the best span of the context: start, end int32 [B] with start <= end < start + max_answer_length; and score, no_answer
        float32 [B], the log-probabilities of that span and of position 0."""
        log_p_BS2 = self._log_probabilities(model, params, batch, None)
        allowed_BS = batch["context"] != 0
        start_BS, end_BS = (jnp.where(allowed_BS, log_p_BS2[..., i], MASKED) for i in range(2))
        length = start_BS.shape[1]
        longest = min(self.max_answer_length, length)
        place_SA = np.arange(length)[:, None] + np.arange(longest)[None]
        end_BSA = jnp.pad(end_BS, ((0, 0), (0, longest)), constant_values=MASKED)[:, place_SA]
        best_end_BS = jnp.argmax(end_BSA, axis=-1).astype(jnp.int32)
        span_BS = start_BS + jnp.max(end_BSA, axis=-1)
        start_B = jnp.argmax(span_BS, axis=1).astype(jnp.int32)
        end_B = start_B + jnp.take_along_axis(best_end_BS, start_B[:, None], axis=1)[:, 0]
        return {"start": start_B, "end": end_B, "score": jnp.max(span_BS, axis=1), "no_answer": jnp.sum(log_p_BS2[:, 0], axis=-1)}

    def decode(self, predictions: Any, batch: dict) -> list[dict]:
        """Returns a row's {"start", "end" (characters of the context), "score", "no_answer"}."""
        offsets = np.asarray(batch["offsets"])
        found = {name: np.asarray(value) for name, value in predictions.items()}
        return [
            {
                "start": int(offsets[b, found["start"][b], 0]),
                "end": int(offsets[b, found["end"][b], 1]),
                "score": float(found["score"][b]),
                "no_answer": float(found["no_answer"][b]),
            }
            for b in range(len(offsets))
        ]

    def join(self, raw: dict, parts: list[dict]) -> dict:
        """Puts the windows of a question together: the best span of all with its text, and the least score of any to have no answer."""
        best = max(parts, key=lambda part: part["score"])
        no_answer = min(part["no_answer"] for part in parts)
        return {**best, "answer": raw["context"][best["start"] : best["end"]], "no_answer": no_answer}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means as they are."""
        del rows
        return means

    def _log_probabilities(self, model: Any, params: Any, batch: dict, rng: jax.Array | None) -> jax.Array:
        """Returns float32 log-probabilities [B, S, 2] of the positions that may be: the context and position 0."""
        rngs = None if rng is None else {"dropout": rng}
        logits_BS2 = model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)
        allowed_BS = (batch["context"] != 0) | (jnp.arange(logits_BS2.shape[1]) == 0)[None]
        return jax.nn.log_softmax(jnp.where(allowed_BS[..., None], logits_BS2, MASKED), axis=1)
