"""What evaluators see of an experiment: its parts, its data, and what the task predicts."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.core.errors import UserError
from decoder_lab.data.examples import INDEX
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import step as steps


class Context:
    """The parts of an experiment, each made when it is first asked for.

    Attributes:
      model, task, tokenizer, source_tokenizer, mesh: as the config says.
      batch_size, max_length, seed: the config's batch_size, sequence_length and seed.
      workdir: the run's folder.
    """

    def __init__(self, experiment: Any):
        self._experiment = experiment
        self.batch_size = experiment.config.batch_size
        self.max_length = experiment.config.sequence_length
        self.seed = experiment.config.seed
        self.workdir = experiment.workdir

    @property
    def model(self) -> Any:
        return self._experiment.model

    @property
    def task(self) -> Any:
        return self._experiment.task

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return self._experiment.mesh

    @property
    def tokenizer(self) -> Any:
        return self._experiment.tokenizer

    @property
    def source_tokenizer(self) -> Any:
        return self._experiment.source_tokenizer

    def rows(self, split: str) -> Any:
        """The rows or examples of a split, see `data.build.rows_for`."""
        return self._experiment.rows(split)

    def items(self, split: str) -> Any:
        """The raw examples of a split."""
        return self._experiment.items(split)

    def params(self, state: Any) -> Any:
        """The parameters to evaluate."""
        return self._experiment.evaluation_params(state)

    def training_batch(self, step: int) -> dict[str, Any]:
        """The training batch of a step, on the devices."""
        return meshes.shard_batch(self._experiment.feed.batch(step), self.mesh)

    def next_update(self, state: Any, batch: dict) -> tuple[Any, Any]:
        """Returns (mean gradient, what would be added to the parameters) of the next step, without taking it; to be compiled.

        Both are of the trained parameters. What an adapter adds to a step beside its penalty is left out.
        """
        experiment = self._experiment
        config, adapter = experiment.config, experiment.adaptation.adapter
        key = jax.random.fold_in(state.key, state.step)
        metrics_fn = steps.at_step(experiment.training_metrics, state.step, experiment.clockwork.total_steps)
        penalty = (lambda params: None) if adapter is None else adapter.penalty
        parts = steps.of_trained(metrics_fn, state.frozen), state.params, batch, key, config.accumulate, penalty
        grads, metrics = steps.sum_gradients(*parts)
        grads = jax.tree.map(lambda g: g / jnp.maximum(metrics["loss"][1], 1e-6), grads)
        return grads, experiment.optimizer.update(grads, state.opt_state, state.params)[0]

    @functools.cached_property
    def _predict(self) -> Any:
        return self.compiled(lambda params, batch: self.task.predict(self.model, params, batch))

    def compiled(self, function: Any) -> Any:
        """Returns a function of parameters, or of a state, and a batch compiled for the run's mesh."""
        return jax.jit(self._experiment.laid_out(function))

    def predictions(self, split: str, state: Any, limit: int | None = None, batch_size: int | None = None) -> list[tuple[dict, Any]]:
        """Returns (raw item, what `task.decode` made of its prediction) of every item of a split that gave an example, in order.

        Where an item gave several (windows), `task.join(raw, values)` makes one of them; without it the item comes as often.

        Args:
          state: a TrainState; its evaluation parameters are used.
          limit: items that are used, evenly spread, with all their examples; None is all.
          batch_size: as the packing counts it; None is that of training. It changes nothing but speed and memory.
        Errors: UserError where the task predicts nothing, or works on rows of a token stream.
        """
        task, rows = self.task, self.rows(split)
        if not hasattr(task, "predict") or not hasattr(rows, "plan"):
            raise UserError(f"task {type(task).__module__.split('.')[-1]}: it makes no predictions by example; take another evaluator.")
        devices, params = meshes.num_shares(self.mesh), self.params(state)
        wanted = -(-(batch_size or self.batch_size) // devices) * devices
        items, found, pending = self.items(split), [], None

        def take(waiting: tuple) -> None:
            e_B, batch, outputs = waiting
            values = task.decode(meshes.fetch(outputs, self.mesh), batch)
            real = zip(e_B.tolist(), batch[INDEX].tolist(), values, strict=True)
            found.extend((e, item, value) for e, item, value in real if e >= 0)

        for e_B, batch in rows.plan(wanted, devices, limit).evaluation():
            done, pending = pending, (e_B, batch, self._predict(params, meshes.shard_whole(batch, self.mesh)))
            if done:
                take(done)  # while the device works on the next batch
        if pending:
            take(pending)
        found.sort(key=lambda entry: entry[0])
        if not hasattr(task, "join"):
            return [(items[item], value) for _, item, value in found]
        groups = [(items[item], [value for *_, value in group]) for item, group in itertools.groupby(found, key=lambda entry: entry[1])]
        return [(raw, task.join(raw, values)) for raw, values in groups]
