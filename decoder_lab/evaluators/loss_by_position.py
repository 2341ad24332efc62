"""The loss by place in the row: whether a longer context helps, or is more than the model can read."""

import dataclasses
import functools
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import feed
from decoder_lab.parallel import mesh as meshes


@dataclasses.dataclass
class Evaluator:
    """One pass over a split, as `mean`, whose loss is summed apart for each part of the row; places count within a document.

    Gives {"0-127": nats a target at places 0 to 127, "128-255": ..., ...}, and "beyond", the mean of all parts but the first.

    Attributes:
      context: given by the lab.
      borders: where parts end, ascending; the first is usually the length that a model was trained with. The last part ends with the row.
      split: which part of the data.
      limit: rows, or items with all their examples, that are used, evenly spread over the split; None is all of them.
      batch_size: rows at once; None is that of training, rounded up to the number of devices.
    """

    context: Any
    borders: tuple[int, ...] = (128,)
    split: Literal["train", "validation", "test"] = "validation"
    limit: int | None = None
    batch_size: int | None = None

    @functools.cached_property
    def _sums(self) -> Any:
        context, edges = self.context, [0, *self.borders, 1 << 30]

        def sums(params: Any, batch: dict) -> list:
            weights_BT = batch["weights"]
            places_BT = batch.get("positions", jnp.broadcast_to(jnp.arange(weights_BT.shape[-1]), weights_BT.shape))
            found = []
            for low, high in zip(edges[:-1], edges[1:], strict=True):  # the forward pass is the same in all, and compiled once
                part = {**batch, "weights": jnp.where((places_BT >= low) & (places_BT < high), weights_BT, 0.0)}
                metrics = context.task.metrics(context.model, params, part)
                found.append(metrics.get("nll", metrics["loss"]))
            return found

        return context.compiled(sums)

    def run(self, state: Any) -> dict[str, float]:
        """Returns {part: mean loss}. Errors: UserError where the task's weights do not run along the row."""
        context = self.context
        rows, devices, params = context.rows(self.split), meshes.num_shares(context.mesh), context.params(state)
        batch_size = -(-(self.batch_size or context.batch_size) // devices) * devices
        total = np.zeros((len(self.borders) + 1, 2))
        for batch in feed.evaluation_batches(rows, batch_size, self.limit, devices):
            if np.ndim(batch["weights"]) != 2 or getattr(context.task, "draws_targets", False):
                raise UserError("evaluator loss_by_position: this task has no loss at each place of a row; use it with language models.")
            total += np.asarray(meshes.fetch(self._sums(params, meshes.shard_whole(batch, context.mesh)), context.mesh), np.float64)
        edges = [0, *self.borders, context.max_length]
        found = {f"{low}-{high - 1}": float(s / w) for low, high, (s, w) in zip(edges[:-1], edges[1:], total, strict=True) if w}
        beyond = total[1:].sum(axis=0)
        return found | ({"beyond": float(beyond[0] / beyond[1])} if beyond[1] else {})


def problems(kw) -> list[str]:
    """Borders ascend from 1, rows are counted from 1."""
    borders = kw["borders"]
    fine = bool(borders) and borders[0] > 0 and all(a < b for a, b in zip(borders, borders[1:], strict=False))
    found = [] if fine else [f"borders: got {borders}, expected at least one, ascending, above 0."]
    return found + [
        f"{name}: got {kw[name]}, expected 1 or more." for name in ("limit", "batch_size") if kw[name] is not None and kw[name] < 1
    ]
