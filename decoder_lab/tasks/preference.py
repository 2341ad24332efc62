"""Preference tuning: a language model is to prefer the chosen one of two answers, without a reward model (DPO and its relatives).

Raw item: a prompt ("messages", or "source" or "prompt", a text) and "chosen" and "rejected", its answers. Batch keys, both sides of a pair
beside each other: tokens, segments, labels int32 [B,T,2]; weights float32 [B,T,2], 1 where a label is of the answer, its end included; and
for losses with a reference "reference" float32 [B,2], the log-probabilities of the answers under the parameters that the run began with,
which the lab works out once and keeps in the run's folder: no second model is in memory while training.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import conversation, preferences
from decoder_lab.ops import preference
from decoder_lab.ops.cross_entropy import cross_entropy

OUTPUT = "next tokens"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logprob", "rejected_logprob")  # of evaluation

REFERENCE = "reference"


def problems(kw) -> list[str]:
    """Ranges, and settings of another loss."""
    found = [] if kw["beta"] > 0 else [f"beta: got {kw['beta']}, expected more than 0."]
    if not 0 <= kw["label_smoothing"] < 0.5:
        found.append(f"label_smoothing: got {kw['label_smoothing']}, expected a probability in [0, 0.5).")
    if kw["label_smoothing"] and kw["loss"] != "dpo":
        found.append(f'label_smoothing is of loss="dpo", got "{kw["loss"]}".')
    if kw["target_margin"] and kw["loss"] != "simpo":
        found.append(f'target_margin is of loss="simpo", got "{kw["loss"]}".')
    return found


@dataclasses.dataclass(frozen=True)
class Task:
    """A language model on pairs of answers.

    Attributes:
      tokenizer: given by the lab. Its chat template says how a prompt is written, see `data/conversation.py`.
      length: given by the lab: longest row in tokens.
      loss: "dpo" (Rafailov et al. 2023), "ipo" (Azar et al. 2023), and without a reference "simpo" (Meng et al. 2024) and "orpo" (Hong et
        al. 2024), see `ops/preference.py`.
      beta: how strongly the model is held to the reference: DPO and SimPO's beta, IPO's tau, ORPO's lambda. Usual: 0.1 (SimPO 2).
      label_smoothing: of DPO: the probability that a pair is swapped.
      target_margin: of SimPO: how much greater the chosen answer's reward is to be.
      system, template: as in the task `instruction`.
      too_long: a pair with an answer that does not end within `length` tokens: "truncate" cuts it there, and leaves the pair out where
        nothing of an answer is left; "drop" leaves it out. Both are counted.
    """

    tokenizer: Any
    length: int
    loss: Literal["dpo", "ipo", "simpo", "orpo"] = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0
    target_margin: float = 0.0
    system: str = ""
    template: Literal["auto", "plain"] = "auto"
    too_long: Literal["truncate", "drop"] = "truncate"

    batching = "examples"
    gold_fields = ("chosen", "rejected")
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to cut or leave out

    @functools.cached_property
    def _format(self) -> conversation.Format:
        return conversation.Format(self.tokenizer, self.template)

    @property
    def end_id(self) -> int:
        """The id that ends a turn, where generation stops."""
        return self._format.end_id

    @property
    def has_reference(self) -> bool:
        """Whether the lab is to give "reference", by `reference`, in every batch."""
        return self.loss in ("dpo", "ipo")

    def texts(self, raw: dict) -> Iterator[str]:
        """What `tokenizer` learns from."""
        chosen, rejected = preferences.conversations(raw, self.system)
        yield from (message["content"] for message in [*chosen, rejected[-1]])

    def example(self, raw: dict) -> dict[str, np.ndarray] | list:
        """Raw pair -> the features of one example; [] where an answer is too long."""
        sides = preferences.encoded(self._format, raw, self.system)
        if max(len(ids) for ids, _ in sides) > self.length + 1:
            left = all(own[1 : self.length + 1].any() for _, own in sides)
            done = "cut" if self.too_long == "truncate" and left else "left out"
            what = f"pairs with an answer that ends after more than {self.length} tokens (sequence_length) {done}"
            self.counts[what] = self.counts.get(what, 0) + 1
            if done == "left out":
                return []
        made = []
        for ids, own in ((ids[: self.length + 1], own[: self.length + 1]) for ids, own in sides):
            segments, weights = np.ones(len(ids) - 1, np.int32), own[1:].astype(np.float32)
            made.append(dict(tokens=ids[:-1], segments=segments, labels=ids[1:], weights=weights))
        return preferences.stacked(*made)

    def prompt(self, raw: dict) -> dict:
        """Raw item -> what an answer is written after."""
        return {"tokens": self._format.prompt(conversation.messages_of(raw, self.system)), "inputs": None}

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        return f"preference 1 {self.too_long} {self.length} {self.system!r} {self._format.fingerprint()}"

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {name: np.ones((1, 1, 2), np.int32) for name in ("tokens", "segments")}

    def forward(self, model: Any, batch: dict, deterministic: bool) -> jax.Array:
        """Bound model, batch -> logits float32 [2 B, T, V], a pair's sides one after the other."""
        if hasattr(model, "encode"):
            raise UserError("preference: this task is for language models, such as --config.model.name=decoder_only.")
        segments_RT = preferences.rows(batch["segments"])
        return model(preferences.rows(batch["tokens"]), segments_BT=segments_RT, deterministic=deterministic)[0]

    def log_probabilities(self, model: Any, params: Any, batch: dict, rng: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Returns float32 (log-probability_B2 of the answers, tokens_B2 that they have)."""
        rngs = None if rng is None else {"dropout": rng}
        logits_RTV = model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)
        sums = jax.vmap(cross_entropy)(logits_RTV, preferences.rows(batch["labels"]), preferences.rows(batch["weights"]))
        return -sums.loss.reshape(-1, 2), sums.weight.reshape(-1, 2)

    def reference(self, model: Any, params: Any, batch: dict) -> jax.Array:
        """Returns float32 [B,2], what the lab gives as "reference": `log_probabilities` under the initial parameters."""
        return self.log_probabilities(model, params, batch)[0]

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)} over pairs: loss, implicit rewards, their margin, the answers' log-probabilities, and accuracy.

        Accuracy is the share of pairs whose chosen answer has the greater implicit reward; a pair of equal ones counts as wrong.
        """
        del progress
        log_B2, count_B2 = self.log_probabilities(model, params, batch, rng)
        real_B = (count_B2 > 0).all(axis=1).astype(jnp.float32)
        pairs = self._pairs(log_B2, jnp.maximum(count_B2, 1.0), batch)
        found = dict(loss=pairs.loss_B, accuracy=(pairs.margin_B > 0).astype(jnp.float32), margin=pairs.margin_B)
        found |= dict(chosen_reward=pairs.chosen_B, rejected_reward=pairs.rejected_B)
        found |= dict(chosen_logprob=log_B2[:, 0], rejected_logprob=log_B2[:, 1])
        total = jnp.sum(real_B)
        return {name: (jnp.sum(jnp.where(real_B > 0, x_B, 0.0)), total) for name, x_B in found.items()}

    def _pairs(self, log_B2: jax.Array, count_B2: jax.Array, batch: dict) -> preference.Pairs:
        mean_B2 = log_B2 / count_B2
        if self.loss == "simpo":
            return preference.simpo(mean_B2[:, 0], mean_B2[:, 1], beta=self.beta, target_margin=self.target_margin)
        if self.loss == "orpo":
            return preference.orpo(mean_B2[:, 0], mean_B2[:, 1], beta=self.beta)
        sides = log_B2[:, 0], log_B2[:, 1], batch[REFERENCE][:, 0], batch[REFERENCE][:, 1]
        if self.loss == "ipo":
            return preference.ipo(*sides, beta=self.beta)
        return preference.dpo(*sides, beta=self.beta, label_smoothing=self.label_smoothing)

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means."""
        del rows
        return means
