"""The training loop: the order of events, on one screen. No maths here; the step is in `training/step.py`."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

from decoder_lab.core import runtime
from decoder_lab.core.durations import due
from decoder_lab.core.errors import UserError
from decoder_lab.data import feed
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import experiment as experiments
from decoder_lab.training import resume
from decoder_lab.training.numbers import Numbers


def train(experiment: experiments.Experiment, workdir: pathlib.Path, on_start: Callable[[], Any] = lambda: None) -> int:
    """Trains, evaluates and saves until the config's last step or a stop signal; returns the process's exit code.

    Evaluation and checkpoint stand at the top of the loop, so the first, the periodic and the last are one code path. A step is
    dispatched before the numbers of the step before it are read: the device never waits for the host. `on_start` is called once the
    state to start from has been made or restored: only then is it sure that this config and this workdir belong together.
    """
    evaluators = experiments.make_evaluators(experiment)
    config, clock = experiment.config, experiment.clockwork
    total, save_every = clock.total_steps, clock.steps(config.checkpoint.every)
    experiment.check_batch_size()
    experiment.report(experiment.summary())
    saver = resume.make_saver(config, workdir, experiment.report)
    state, start, meta = resume.start_state(experiment, saver)
    if start > total:
        raise UserError(f"total_steps: got {total}, but the run in {workdir} is at step {start} already.")
    on_start()
    with (
        saver,
        contextlib.closing(Numbers(experiment, workdir, start, meta)) as numbers,
        feed.Prefetch(lambda step: meshes.shard_batch(experiment.feed.batch(step), experiment.mesh), start, total) as batches,
        runtime.StopSignals() as stop,
    ):
        train_step = experiment.train_step(numbers.clock.pause)
        for step in range(start, total + 1):
            stopping = stop.requested  # read once: a signal in the middle of this round counts in the next
            if step > start or not start:  # a resumed step was evaluated and saved before
                wanted = [name for name, (_, every) in evaluators.items() if due(step, every, total)]
                save = due(step, save_every, total) and step > 0
                if wanted or save or stopping:
                    numbers.flush(state)
                for name in wanted:
                    numbers.evaluated(step, name, evaluators[name][0], state)
                if save or stopping or numbers.improved(step):
                    with numbers.clock.pause():
                        saver.save(step, state.replace(frozen=None), meta=numbers.meta(step), metrics=numbers.results(step))
            if stopping or step == total:
                break
            state, metrics = train_step(state, next(batches))
            numbers.push(step + 1, metrics, state)
        saver.wait()
        return numbers.finish(step, stopping)


def evaluate(experiment: experiments.Experiment, saver: Any, checkpoint: str | int, only: dict[str, Any]) -> tuple[int, dict]:
    """Returns (step, {name/metric: value}) of the evaluators in `only` for one checkpoint of a run."""
    state, _, step = resume.restore(experiment, saver, checkpoint)
    return step, {f"{name}/{key}": value for name, evaluator in only.items() for key, value in evaluator.run(state).items()}
