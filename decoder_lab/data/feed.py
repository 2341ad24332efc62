"""Rows or examples to batches. The batch of step s is a pure function of (seed, s): the data position of a run is its step."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError


class Feed:
    """Training batches by step.

    Global row g = step * batch_size + b is row g mod R of epoch g div R, so an epoch may begin inside a batch. Process p of P takes the
    p-th of P equal, consecutive shares of a batch: the processes' shares, put together, are the batch of one process.

    Attributes:
      rows: has `rows(epoch, seed)`, the same in every epoch, and `take(rows_B, epoch, seed)`.
      batch_size: rows of the global batch.
      examples_per_epoch: R.
    """

    def __init__(self, rows: Any, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1):
        if batch_size % process_count:
            raise UserError(f"batch_size: got {batch_size}, expected a multiple of the {process_count} processes.")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.local_size = batch_size // process_count
        self.first = process_index * self.local_size
        self.examples_per_epoch = rows.rows(0, seed)
        if self.examples_per_epoch < 1:
            raise UserError("the training data has no row: expected at least 2 tokens.")

    @property
    def steps_per_epoch(self) -> float:
        return self.examples_per_epoch / self.batch_size

    def epoch_of(self, step: int) -> float:
        """Returns how many epochs, in fractions, lie before this step's batch."""
        return step * self.batch_size / self.examples_per_epoch

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of the batch of `step`, keys and shapes as of the packing."""
        return self._rows(step * self.batch_size + self.first + np.arange(self.local_size, dtype=np.int64))

    def whole(self, step: int) -> dict[str, np.ndarray]:
        """Returns all rows of the batch of `step`."""
        return self._rows(step * self.batch_size + np.arange(self.batch_size, dtype=np.int64))

    def _rows(self, global_B: np.ndarray) -> dict[str, np.ndarray]:
        epoch_B, row_B = np.divmod(global_B, self.examples_per_epoch)
        parts = []
        for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
            if (size := self.rows.rows(epoch, self.seed)) != self.examples_per_epoch:
                raise ValueError(f"packing: epoch {epoch} has {size} rows, epoch 0 has {self.examples_per_epoch}; they must be equal")
            parts.append(self.rows.take(row_B[epoch_B == epoch], epoch, self.seed))
        return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


class ExampleFeed:
    """Training batches of examples by step: step s is batch s mod M of epoch s div M of the packing's plan.

    Attributes:
      rows: `data.rows.ExampleRows`.
      examples_per_epoch, examples_per_step, tokens_per_step: of the whole batch, the latter two on average; tokens without padding.
      shapes: {feature: "dtype[rows, ...]"} of every kind of batch that will come.
      layout: rows of a batch of each bucket, which decide what stands in the batch of a step.
      multiple: what those rows are multiples of.
    """

    def __init__(self, rows: Any, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1, multiple: int = 1):
        if multiple % process_count:
            raise UserError(f"batch_size: rows in multiples of {multiple} cannot be shared by {process_count} processes.")
        self.rows, self.seed = rows, seed
        self.process = dict(share=process_index, shares=process_count)
        self.plan, self.multiple = rows.plan(batch_size, multiple), multiple
        self.examples_per_epoch = self.plan.num_examples
        self.examples_per_step = self.plan.num_examples / self.plan.num_batches
        self.tokens_per_step = self.plan.num_tokens / self.plan.num_batches
        self.shapes = self.plan.shapes()
        self.layout = [bucket.rows for bucket in self.plan.buckets]

    @property
    def steps_per_epoch(self) -> float:
        return float(self.plan.num_batches)

    def epoch_of(self, step: int) -> float:
        """Returns how many epochs, in fractions, lie before this step's batch."""
        return step / self.plan.num_batches

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of the batch of `step`; shapes are those of its bucket."""
        epoch, number = divmod(step, self.plan.num_batches)
        return self.plan.take(number, epoch, self.seed, **self.process)

    def whole(self, step: int) -> dict[str, np.ndarray]:
        """Returns all rows of the batch of `step`."""
        epoch, number = divmod(step, self.plan.num_batches)
        return self.plan.take(number, epoch, self.seed)


def evaluation_batches(rows: Any, batch_size: int, limit: int | None = None, multiple: int = 1) -> Iterator[dict[str, np.ndarray]]:
    """Yields every evaluation row once, or `limit` of them, evenly spread over all: packed rows in order, examples by length.

    Packed rows come `batch_size` at a time, examples as their packing says, in multiples of `multiple`. The last batch (of a shape) is
    filled up with rows of zeros, whose weights (and segments) say that they are nothing, and whose `index`, where there is one, is -1.
    """
    if hasattr(rows, "plan"):
        yield from (batch for _, batch in rows.plan(batch_size, multiple, limit).evaluation())
        return
    total = rows.rows(None, 0)
    used = total if limit is None else min(total, limit)
    for start in range(0, used, batch_size):
        index = np.arange(start, min(start + batch_size, used), dtype=np.int64) * total // used
        batch = rows.take(index, None, 0)
        missing = batch_size - len(index)
        if missing:
            batch = {name: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) for name, x in batch.items()}
        yield batch


class Prefetch:
    """Iterates over fn(start), fn(start + 1), ... up to `stop` (excluded; None: no end), worked out ahead by one background thread.

    Results come in order, at most `depth` of them wait or are being made. An error of `fn` is raised in the consumer where its result
    was due, and again at every later `next`. Leaving the `with` block, or `close`, waits for the call of `fn` that is under way.
    """

    def __init__(self, fn: Callable[[int], Any], start: int, stop: int | None = None, depth: int = 2):
        self._fn = fn
        self._steps = itertools.count(start) if stop is None else iter(range(start, stop))
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._due: collections.deque[concurrent.futures.Future] = collections.deque()
        for _ in range(depth):
            self._order_next()

    def _order_next(self) -> None:
        for step in itertools.islice(self._steps, 1):
            self._due.append(self._thread.submit(self._fn, step))

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Any:
        if not self._due:
            raise StopIteration
        result = self._due[0].result()  # an error stays first in line
        self._due.popleft()
        self._order_next()
        return result

    def close(self) -> None:
        """Ends the thread and drops what is ready; may be called again."""
        self._due.clear()
        self._steps = iter(())
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
