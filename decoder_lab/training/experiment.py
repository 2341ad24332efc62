"""A config made real: task, tokenizer, data, model, optimiser and mesh, each built when first asked for."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.core import clock as clocks
from decoder_lab.core import config as config_lib
from decoder_lab.core import durations, lookup, tree, writer
from decoder_lab.core.errors import UserError
from decoder_lab.data import build, feed
from decoder_lab.optim import optimizer as optim
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel import processes
from decoder_lab.training import auxiliary, placement, reference, resume
from decoder_lab.training import step as steps
from decoder_lab.training import summary as summaries
from decoder_lab.training import teacher as teachers
from decoder_lab.training.adaptation import Adaptation, adapter_of, one_text_a_row
from decoder_lab.training.context import Context


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
    teacher_origin: dict = dataclasses.field(default_factory=dict, init=False)  # where the teacher's parameters came from, once loaded
    _rows: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)  # of each split, once asked for
    _items: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def of_run(self, workdir: pathlib.Path) -> "Experiment":
        """The experiment of another run's folder. Errors: UserError where it holds none."""
        if not (workdir / "config.json").is_file():
            raise UserError(f"expected the folder of a run (with a config.json), got {workdir.absolute()}.")
        return Experiment(config_lib.from_json((workdir / "config.json").read_text()), workdir, self.report)

    @functools.cached_property
    def tokenizer(self) -> Any:
        return build.tokenizer_for(self.config.data, *_copies(self, "tokenizer"))

    @functools.cached_property
    def source_tokenizer(self) -> Any:
        """Tokenizer of the source side; the same object as `tokenizer` where the config sets none of its own."""
        if self.config.data.source_tokenizer is None:
            return self.tokenizer
        return build.tokenizer_for(self.config.data, *_copies(self, "source_tokenizer", side="source"))

    @functools.cached_property
    def task(self) -> Any:
        """The task, with the facts of the train split that it asks for: the run's own copy, or found now."""
        parts = dict(tokenizer=self.tokenizer, source_tokenizer=self.source_tokenizer, length=self.config.sequence_length)
        parts["teacher"] = self.teacher and self.teacher.model
        task = lookup.make("task", self.config.task, **parts)
        self._facts = build.load_facts(task, self.config, self.workdir, self.report)
        return task

    teacher = functools.cached_property(teachers.of)  # the run that the task learns from, or None

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """What the model is built for: the tokenizers' sizes, and over them what the task says (labels, characters, added tokens)."""
        found = {"vocab_size": self.tokenizer.vocab_size, "source_vocab_size": self.source_tokenizer.vocab_size}
        return found | (self.task.sizes() if hasattr(self.task, "sizes") else {})

    @functools.cached_property
    def adaptation(self) -> Adaptation:
        """Which parameters there are, and which of them are trained."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 2)
        return Adaptation(adapter_of(self.config), make_model(self.config, **self.sizes), self.task, key)

    @property
    def model(self) -> Any:
        return self.adaptation.model

    mesh = functools.cached_property(placement.mesh)
    layout = functools.cached_property(placement.layout)

    def items(self, split: str) -> Any:
        """The raw examples of one split: `len(items)`, `items[i]`."""
        if split not in self._items:
            self._items[split] = build.source_for(self.config.data, split)
        return self._items[split]

    def check_batch_size(self) -> None:
        """Errors: UserError if the devices cannot share a batch, or a micro-batch, evenly, or the loss needs whole batches."""
        placement.check_rows_meet(self)
        meshes.check_batch_size(self.config.batch_size, self.mesh)
        meshes.check_batch_size(self.config.batch_size // self.config.accumulate, self.mesh, "micro-batch (batch_size / accumulate) of")

    def rows(self, split: str) -> Any:
        """Fixed-length rows, or the examples, of one split of the data."""
        if split not in self._rows:
            task, length = self.task, self.config.sequence_length
            rows = build.rows_for(self.config.data, task, split, length, progress=self.report, facts=self._facts)
            self._rows[split] = reference.completed(self, rows, split)
        return self._rows[split]

    @functools.cached_property
    def feed(self) -> feed.Feed | feed.ExampleFeed:
        """The training batches: `feed.batch(step)`, this process's rows of them."""
        config, processes = self.config, meshes.share(self.mesh)
        if self.by_example:
            multiple = resume.rows_multiple(self.workdir, meshes.num_shares(self.mesh) * config.accumulate)
            return feed.ExampleFeed(self.rows("train"), config.batch_size, config.seed, *processes, multiple=multiple)
        return feed.Feed(self.rows("train"), config.batch_size, config.seed, *processes)

    @property
    def by_example(self) -> bool:
        """Whether batches are made of whole examples, of several shapes, and not of rows of a token stream."""
        return "examples" in lookup.given("packing", self.config.data.packing.name)

    @property
    def marks_texts(self) -> bool:
        """Whether a row of tokens may hold several texts, and says which token is of which."""
        return "segments" in self.feed.batch(0)

    @functools.cached_property
    def clockwork(self) -> durations.Clockwork:
        """Turns durations of the config into steps."""
        config = self.config
        total = config.total_steps
        if config.total_epochs is not None:
            total = max(1, round(config.total_epochs * self.feed.steps_per_epoch))
        if self.by_example:
            return ExampleClockwork(
                total, config.batch_size, config.sequence_length, lambda: self.feed.examples_per_epoch, lambda: self.feed
            )
        return durations.Clockwork(total, config.batch_size, config.sequence_length, lambda: self.feed.examples_per_epoch)

    @functools.cached_property
    def schedule(self) -> Callable:
        """Optimiser step -> learning rate; needs neither model nor data, but where durations are in epochs."""
        return optim.make_schedule(self.config, self.clockwork.total_steps, self.clockwork.steps)

    @functools.cached_property
    def _optimizer(self) -> tuple:
        times = self.clockwork.total_steps, self.clockwork.steps
        undecayed = getattr(self.adaptation.adapter, "undecayed", ())
        return optim.make(self.config, *times, self.adaptation.trained_shapes, self.adaptation.scaling(*times), undecayed)

    @property
    def optimizer(self) -> Any:
        return self._optimizer[0]

    @property
    def lr_fn(self) -> Callable:
        return self._optimizer[1]

    def init_params(self, only: Collection[str] | None = None) -> Any:
        """Fresh parameters of the model itself, or of these paths, laid out over the mesh: the same to the bit on every mesh."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), 0)
        if only is None and self.layout.is_whole:  # saves a trace
            return meshes.replicate(self.adaptation.draw(key), self.mesh)
        if only is None:
            return self.adaptation.draw(key, self.layout.of_params)
        some = jax.jit(lambda key: tree.split(self.adaptation.draw(key), only)[0])(key)  # the rest is never worked out
        return meshes.place(some, self.layout.of_params(some))

    def training_metrics(self, params: Any, batch: dict, key: jax.Array, progress: Any = None) -> dict[str, tuple]:
        """The task's {name: (sum, weight)} of a training batch."""
        with auxiliary.collected(self.model) as sown, placement.multiplying(self.config.matmul):
            metrics = self.task.metrics(self.model, params, batch, rng=key, progress=progress)
        return auxiliary.added(metrics, sown)

    @property
    def parameter_shapes(self) -> Any:
        """Of everything that the model computes with."""
        return self.adaptation.shapes

    def summary(self) -> str:
        """One line of what runs where."""
        return summaries.line(self)

    def init_state(self, params: Any = None, added: dict | None = None) -> steps.TrainState:
        """The state before the first step, laid out over the mesh; from fresh parameters, or from those given.

        `params` are the model's own, `added` the values of what the adapter adds, {path: array}, where they are not to be fresh.
        """
        joined = self.adaptation.joined(self.init_params() if params is None else params)
        params, frozen = self.adaptation.split(tree.join(joined, tree.nest(added or {})))
        return placement.init_state(self, params, frozen)

    def train_step(self, compiling: Callable[[], Any] = contextlib.nullcontext) -> Callable:
        """The compiled `train_step(state, batch) -> (state, metrics)`; the state it is given is used up.

        A batch of a shape that did not come before is compiled for, inside the context that `compiling` makes.
        """
        return _watched(self.jitted_step(), self.feed.shapes if self.by_example else [], self.report, compiling)

    def jitted_step(self) -> Callable:
        """The step as `jax.jit` (or `jax.pmap`) has it: called, or lowered for shapes that say where they lie."""
        one_text_a_row(self.adaptation.adapter, self)
        return placement.jitted_step(self)

    laid_out = placement.laid_out

    def clock(self) -> clocks.Clock:
        """Measures the run's speed, in tokens that are not padding; MFU where the model knows its FLOPs."""
        config = self.config
        tokens, length = config.batch_size * config.sequence_length, config.sequence_length
        if self.by_example:
            tokens, length = self.feed.tokens_per_step, round(self.feed.tokens_per_step / self.feed.examples_per_step)
        flops = getattr(self.model, "flops_per_token", None)
        if of_task := getattr(self.task, "flops_per_token", None):  # what the model reads is not the row itself
            flops = functools.partial(of_task, self.model)
        peak = clocks.peak_flops(self.mesh.devices.flat[0].device_kind, self.mesh.size)
        return clocks.Clock(tokens, flops(length) if flops else None, peak)

    def evaluation_params(self, state: steps.TrainState) -> Any:
        """The parameters to evaluate and to generate with: the average where there is one, or what a schedule-free optimiser says."""
        average = state.ema if state.ema is not None else optim.evaluation_params(state.opt_state, state.params)
        if (adapter := self.adaptation.adapter) is not None:  # what comes out of an optimiser's state was never restricted
            average = adapter.project(average, state.adapter)
        return steps.joined(average, state.frozen)


@dataclasses.dataclass(frozen=True)
class ExampleClockwork(durations.Clockwork):
    """Durations where a step's number of examples varies: epochs, examples and tokens by what an epoch has on average."""

    feed: Callable[[], feed.ExampleFeed]  # asked only where such units are used

    def steps(self, duration: str | int) -> int:
        number, unit = durations.parse(duration)
        if unit in ("steps", "%"):
            return super().steps(duration)
        found = self.feed()
        a_step = {"epochs": 1 / found.steps_per_epoch, "examples": found.examples_per_step, "tokens": found.tokens_per_step}[unit]
        return max(1, round(number / a_step)) if number > 0 else 0


def _copies(experiment: Experiment, name: str, side: str = "target") -> tuple:
    """Returns what `build.tokenizer_for` takes: the run's own copy, ..., and that of the run that it begins with, or learns from."""
    source = experiment.config.init_from.workdir or (experiment.config.task.kw.workdir if teachers.wanted(experiment.config) else "")
    return experiment.workdir / name, experiment.report, experiment.config.task, side, pathlib.Path(source) / name if source else None


def _watched(step: Callable, planned: list[dict], report: Callable[[str], None], compiling: Callable[[], Any]) -> Callable:
    """Returns the compiled step; the first batch of each shape goes through it inside `compiling()`, an unplanned one is told of."""
    seen: list[dict] = []

    def watched(state: steps.TrainState, batch: dict) -> tuple[steps.TrainState, dict]:
        shapes = {name: f"{x.dtype}{list(x.shape)}" for name, x in batch.items()}
        if shapes not in seen:
            if seen and shapes not in planned:
                report(f"the step is compiled again: a batch of new shapes came, {shapes}; before: {seen[-1]}")
            seen.append(shapes)
            with compiling():
                return step(state, batch)
        return step(state, batch)

    return watched


def make_model(config: Any, vocab_size: int, **sizes: int) -> Any:
    """The config's model for a vocabulary of this size and what else the task says (`Task.sizes`). Errors: UserError where a size lacks."""
    longer = getattr(adapter_of(config), "lengthens", 0)
    given = dict(max_length=config.sequence_length + longer, dtype=jnp.dtype(config.dtype), vocab_size=vocab_size, **sizes)
    try:
        return auxiliary.of_model(lookup.make("model", config.model, **given), config.model.to_dict())
    except UserError as error:
        if set(lookup.given("model", config.model.name)) <= given.keys():
            raise
        raise UserError(f'{error} The task is "{config.task.name}": take one that gives it, or another model.') from error


def make_evaluators(experiment: Experiment) -> dict[str, tuple[Any, int]]:
    """Returns {name: (evaluator, steps between its runs)} of the config's evaluators; what one lacks is said before data is made.

    One that has nothing to do (`idle`), such as samples of a classifier, is left out, and that is said.
    """
    context, plugins = Context(experiment), experiment.config.evaluators
    made = {name: lookup.make("evaluator", plugin, context=context) for name, plugin in plugins.items()}
    found = {}
    for name, evaluator in made.items():
        if reason := getattr(evaluator, "idle", lambda: "")():
            experiment.report(f"evaluator {name}: {reason}; it is left out")
        else:
            found[name] = evaluator, experiment.clockwork.steps(plugins[name].every)
    return found


def make_writers(config: Any, workdir: pathlib.Path, start: int) -> writer.Writers:
    """Everything that the run's numbers go to, from step `start` on; nothing in any process but the first."""
    if not processes.first():
        return writer.Writers([])
    return writer.Writers(lookup.make("writer", plugin, directory=workdir, resume_step=start) for plugin in config.log.writers.values())
