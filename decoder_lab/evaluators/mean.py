"""Means of the task's metrics over one full pass of a split, the same for every batch size."""

import dataclasses
import functools
from typing import Any, Literal

import numpy as np

from decoder_lab.data import feed
from decoder_lab.parallel import mesh as meshes


@dataclasses.dataclass
class Evaluator:
    """Sums every metric and its weight over all rows and divides once at the end; the last, partial batch counts as it is.

    Attributes:
      context: given by the lab.
      split: which part of the data.
      limit: rows, or items with all their examples, that are used, evenly spread over the split; None is all of them.
      batch_size: rows at once, in what the packing counts them by; None is that of training, rounded up to the number of devices.
    """

    context: Any
    split: Literal["train", "validation", "test"] = "validation"
    limit: int | None = None
    batch_size: int | None = None

    @functools.cached_property
    def _sums(self) -> Any:
        context = self.context

        def sums(params: Any, batch: dict) -> dict:
            return context.task.metrics(context.model, params, batch)

        return context.compiled(sums)

    def run(self, state: Any) -> dict[str, float]:
        """Returns {metric: mean}, with the task's derived numbers."""
        context = self.context
        rows = context.rows(self.split)
        devices = meshes.num_shares(context.mesh)
        batch_size = -(-(self.batch_size or context.batch_size) // devices) * devices
        params = context.params(state)
        totals: dict[str, np.ndarray] = {}
        pending = None
        for batch in feed.evaluation_batches(rows, batch_size, self.limit, devices):
            done, pending = pending, self._sums(params, meshes.shard_whole(batch, context.mesh))
            _add(totals, done, context.mesh)  # the numbers of the batch before, while the device works on this one
        _add(totals, pending, context.mesh)
        means = {name: float(total / weight) if weight else 0.0 for name, (total, weight) in totals.items()}
        return context.task.summary(means, rows)


def problems(kw) -> list[str]:
    """Rows are counted from 1."""
    return [f"{name}: got {kw[name]}, expected 1 or more." for name in ("limit", "batch_size") if kw[name] is not None and kw[name] < 1]


def _add(totals: dict[str, np.ndarray], sums: dict | None, mesh: Any) -> None:
    """Adds one batch's (sum, weight) pairs in double precision."""
    for name, pair in meshes.fetch(sums or {}, mesh).items():
        totals[name] = totals.get(name, 0.0) + np.asarray(pair, np.float64)


def numbers(kw, task) -> list[str] | None:
    """Those of the task."""
    return task
