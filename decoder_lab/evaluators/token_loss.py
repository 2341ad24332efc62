"""The loss of single tokens: a few texts of a split in which one sees what the model finds hard."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import feed
from decoder_lab.decoding.text import piece
from decoder_lab.parallel import mesh as meshes


@dataclasses.dataclass
class Evaluator:
    """Gives the detail "texts": of each text the predicted tokens and the loss of each, in nats.

    A task's loss is a sum over places of weight x loss, so its derivative by the weights is the loss at each place, whatever the task.

    Attributes:
      context: given by the lab.
      split: which part of the data.
      limit: texts, evenly spread over the split.
      most_tokens: shown of each.
    """

    context: Any
    split: Literal["train", "validation", "test"] = "validation"
    limit: int = 4
    most_tokens: int = 400

    @functools.cached_property
    def _losses(self) -> Any:
        context = self.context
        task = context.task
        if getattr(task, "loss_chunk", 0):  # computed by chunks the loss has no derivative by the weights
            task = dataclasses.replace(task, loss_chunk=0)

        def total(weights_BT: jax.Array, params: Any, batch: dict) -> jax.Array:
            return task.metrics(context.model, params, {**batch, "weights": weights_BT})["loss"][0]

        return context.compiled(lambda params, batch: jax.grad(total)(batch["weights"], params, batch))

    def run(self, state: Any) -> dict[str, Any]:
        """Returns {"texts": detail}. Errors: UserError where the task has no loss at each token."""
        context = self.context
        params, devices = context.params(state), meshes.num_shares(context.mesh)
        texts = []
        for batch in feed.evaluation_batches(context.rows(self.split), -(-self.limit // devices) * devices, self.limit, devices):
            other = np.ndim(batch["weights"]) != 2 or np.shape(batch.get("labels")) != np.shape(batch["weights"])
            if other or getattr(context.task, "draws_targets", False):
                raise UserError("evaluator token_loss: this task has no loss at each token; use it with language models and their like.")
            losses_BT = np.asarray(meshes.fetch(self._losses(params, meshes.shard_whole(batch, context.mesh)), context.mesh), np.float64)
            rows = zip(batch["labels"], batch["weights"], losses_BT, strict=True)
            texts += [self._text(labels_T, weights_T, losses_T) for labels_T, weights_T, losses_T in rows if weights_T.any()]
        return {"texts": dict(kind="token_loss", texts=texts[: self.limit])}

    def _text(self, labels_T: np.ndarray, weights_T: np.ndarray, losses_T: np.ndarray) -> dict[str, list]:
        """Returns the tokens and losses of a row; tokens that are not predicted, between others, are left out."""
        chosen = np.flatnonzero(weights_T)[: self.most_tokens]
        return {"tokens": [piece(self.context.tokenizer, int(labels_T[t])) for t in chosen], "losses": losses_T[chosen].tolist()}


def problems(kw) -> list[str]:
    """Texts and tokens are counted from 1."""
    return [f"{name}: got {kw[name]}, expected 1 or more." for name in ("limit", "most_tokens") if kw[name] < 1]


def numbers(kw, task) -> list[str]:
    """None: it shows something."""
    return []
