"""A config made real: task, tokenizer, data, model, optimiser and mesh, each built when first asked for."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.core import clock as clocks
from decoder_lab.core import config as config_lib
from decoder_lab.core import durations, lookup, runtime, tree, writer
from decoder_lab.core.errors import UserError
from decoder_lab.data import build, feed
from decoder_lab.optim import optimizer as optim
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import step as steps


@dataclasses.dataclass
class Experiment:
    """What a config describes. Nothing is built, read or compiled before its attribute is asked for.

    Attributes:
      config: complete config (`core.config.load`).
      workdir: the run's folder; its tokenizer is kept there, so that the folder alone suffices to use the model.
      report: takes one line of news for the user.
    """

    config: Any
    workdir: pathlib.Path
    report: Callable[[str], None] = print

    def of_run(self, workdir: pathlib.Path) -> "Experiment":
        """The experiment of another run's folder. Errors: UserError where it holds none."""
        if not (workdir / "config.json").is_file():
            raise UserError(f"expected the folder of a run (with a config.json), got {workdir}.")
        return Experiment(config_lib.from_json((workdir / "config.json").read_text()), workdir, self.report)

    @functools.cached_property
    def tokenizer(self) -> Any:
        return build.tokenizer_for(self.config.data, directory=self.workdir / "tokenizer", progress=self.report)

    @functools.cached_property
    def task(self) -> Any:
        return _make("task", self.config.task, tokenizer=self.tokenizer)

    @functools.cached_property
    def model(self) -> Any:
        return make_model(self.config, self.tokenizer.vocab_size)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        return meshes.make_mesh()

    def check_batch_size(self) -> None:
        """Errors: UserError if the devices cannot share a batch, or a micro-batch, evenly."""
        meshes.check_batch_size(self.config.batch_size, self.mesh)
        meshes.check_batch_size(self.config.batch_size // self.config.accumulate, self.mesh, "micro-batch (batch_size / accumulate) of")

    def rows(self, split: str) -> Any:
        """Fixed-length rows of one split of the data."""
        if split not in self._rows:
            self._rows[split] = build.rows_for(self.config.data, self.task, split, self.config.sequence_length, progress=self.report)
        return self._rows[split]

    @functools.cached_property
    def _rows(self) -> dict[str, Any]:
        return {}

    @functools.cached_property
    def feed(self) -> feed.Feed:
        """The training batches: `feed.batch(step)`, this process's rows of them."""
        return feed.Feed(self.rows("train"), self.config.batch_size, self.config.seed, jax.process_index(), jax.process_count())

    @functools.cached_property
    def clockwork(self) -> durations.Clockwork:
        """Turns durations of the config into steps."""
        config = self.config
        total = config.total_steps
        if config.total_epochs is not None:
            total = max(1, round(config.total_epochs * self.feed.examples_per_epoch / config.batch_size))
        return durations.Clockwork(total, config.batch_size, config.sequence_length, lambda: self.feed.examples_per_epoch)

    @functools.cached_property
    def schedule(self) -> Callable:
        """Optimiser step -> learning rate; needs neither model nor data, but where durations are in epochs."""
        return optim.make_schedule(self.config, self.clockwork.total_steps, self.clockwork.steps)

    @functools.cached_property
    def _optimizer(self) -> tuple:
        return optim.make(self.config, self.clockwork.total_steps, self.clockwork.steps, self.parameter_shapes)

    @property
    def optimizer(self) -> Any:
        return self._optimizer[0]

    @property
    def lr_fn(self) -> Callable:
        return self._optimizer[1]

    def init_params(self, key: jax.Array) -> Any:
        """Fresh parameters; traced under jit by the callers."""
        return self.model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    @functools.cached_property
    def parameter_shapes(self) -> Any:
        return jax.eval_shape(self.init_params, jax.random.key(0))

    def summary(self) -> str:
        """One line of what runs where: devices, parameters, tokens a step, memory of the state, attention kernel and dtype really used."""
        config = self.config
        opt_state = jax.eval_shape(self.optimizer.init, self.parameter_shapes)
        parts = runtime.memory_estimate(self.parameter_shapes, opt_state, config.ema > 0)
        memory = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in parts.items() if size)
        described = getattr(self.model, "describe", None)
        kernel = f"; {described(jax.default_backend(), config.sequence_length)}" if described else ""
        return (
            f"{runtime.device_summary()}; {self.num_parameters:,} parameters; "
            f"{config.batch_size * config.sequence_length:,} tokens a step, "
            f"{self.clockwork.total_steps:,} steps; MiB a device: {memory}; compute in {config.dtype}{kernel}"
        )

    @property
    def num_parameters(self) -> int:
        return tree.count(self.parameter_shapes)

    def init_state(self) -> steps.TrainState:
        """The state before the first step, laid out over the mesh in one compiled call."""

        def init():
            params = self.init_params(jax.random.fold_in(jax.random.key(self.config.seed), 0))
            return steps.init_state(params, self.optimizer, self.config.seed, self.config.ema > 0)

        return jax.jit(init, out_shardings=meshes.replicated(self.mesh))()

    def train_step(self) -> Callable:
        """The compiled `train_step(state, batch) -> (state, metrics)`; the state it is given is used up."""
        config = self.config

        def metrics_fn(params, batch, key):
            return self.task.metrics(self.model, params, batch, rng=key)

        step = steps.make_train_step(
            metrics_fn, self.optimizer, self.lr_fn, accumulate=config.accumulate, ema=config.ema, on_nonfinite=config.on_nonfinite
        )
        compiled = jax.jit(step, donate_argnums=0, out_shardings=meshes.replicated(self.mesh))
        seen: list[dict] = []

        def watched(state: steps.TrainState, batch: dict) -> tuple[steps.TrainState, dict]:
            shapes = {name: f"{x.dtype}{list(x.shape)}" for name, x in batch.items()}
            if shapes not in seen:
                if seen:
                    self.report(f"the step is compiled again: a batch of new shapes came, {shapes}; before: {seen[-1]}")
                seen.append(shapes)
            return compiled(state, batch)

        return watched

    def clock(self) -> clocks.Clock:
        """Measures the run's speed; MFU where the model knows its FLOPs."""
        config = self.config
        flops = getattr(self.model, "flops_per_token", None)
        peak = clocks.peak_flops(self.mesh.devices.flat[0].device_kind, self.mesh.size)
        per_token = flops(config.sequence_length) if flops else None
        return clocks.Clock(config.batch_size * config.sequence_length, per_token, peak)

    def evaluation_params(self, state: steps.TrainState) -> Any:
        """The parameters to evaluate and to generate with: the average where there is one, or what a schedule-free optimiser says."""
        return state.ema if state.ema is not None else optim.evaluation_params(state.opt_state, state.params)


def make_model(config: Any, vocab_size: int) -> Any:
    """The config's model for a vocabulary of this size."""
    return _make("model", config.model, vocab_size=vocab_size, max_length=config.sequence_length, dtype=jnp.dtype(config.dtype))


def _make(kind: str, plugin: Any, **given: Any) -> Any:
    """Builds a plug-in object from what the lab gives and what the config chose."""
    kw = plugin.kw.to_dict() if hasattr(plugin.kw, "to_dict") else dict(plugin.kw)
    return lookup.find(kind, plugin.name)(**given, **kw)


def make_evaluators(experiment: Experiment) -> dict[str, tuple[Any, int]]:
    """Returns {name: (evaluator, steps between its runs)} of the config's evaluators."""
    context = Context(experiment)
    return {
        name: (_make("evaluator", plugin, context=context), experiment.clockwork.steps(plugin.every))
        for name, plugin in experiment.config.evaluators.items()
    }


def make_writers(config: Any, workdir: pathlib.Path, start: int) -> writer.Writers:
    """Everything that the run's numbers go to, from step `start` on."""
    return writer.Writers(_make("writer", plugin, directory=workdir, resume_step=start) for plugin in config.log.writers.values())


class Context:
    """What evaluators see of an experiment."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self.model = experiment.model
        self.task = experiment.task
        self.tokenizer = experiment.tokenizer
        self.mesh = experiment.mesh
        self.batch_size = experiment.config.batch_size
        self.max_length = experiment.config.sequence_length
        self.seed = experiment.config.seed

    def rows(self, split: str) -> Any:
        return self._experiment.rows(split)

    def params(self, state: steps.TrainState) -> Any:
        return self._experiment.evaluation_params(state)
