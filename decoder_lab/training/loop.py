"""The training loop: the order of events, on one screen. No maths here; the step is in `training/step.py`."""

import contextlib
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from decoder_lab.core import runtime, watchdog
from decoder_lab.core.durations import due
from decoder_lab.core.errors import UserError
from decoder_lab.data import feed
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel import processes
from decoder_lab.training import experiment as experiments
from decoder_lab.training import resume
from decoder_lab.training.numbers import Numbers

COMPILING, EVALUATING = 2, 8  # how many times the patience with a step they may take


def train(
    experiment: experiments.Experiment,
    workdir: pathlib.Path,
    on_start: Callable[[], Any] = lambda: None,
    patience: float | None = None,
) -> int:
    """Trains, evaluates and saves until the config's last step or a stop signal; returns the process's exit code.

    Evaluation and checkpoint stand at the top of the loop, so the first, the periodic and the last are one code path. A step is
    dispatched before the numbers of the step before it are read: the device never waits for the host. `on_start` is called once the
    state to start from has been made or restored: only then is it sure that this config and this workdir belong together.
    A step that takes longer than `patience` seconds ends the process. With several processes all of them take every turn here together.
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
    agree_on_data(experiment)
    on_start()
    with (
        saver,
        runtime.StopSignals() as stop,
        contextlib.closing(Numbers(experiment, workdir, start, meta, stop)) as numbers,
        feed.Prefetch(lambda step: meshes.shard_batch(experiment.feed.batch(step), experiment.mesh), start, total) as batches,
        watchdog.Watchdog(patience, processes.give_up, experiment.report) as dog,
    ):
        train_step = experiment.train_step(lambda: numbers.clock.pause("compile"))
        for step in range(start, total + 1):
            stopping = numbers.company.stopping()  # asked once: a signal in the middle of this round counts in the next
            if step > start or not start:  # a resumed step was evaluated and saved before
                wanted = [name for name, (_, every) in evaluators.items() if due(step, every, total)]
                save = due(step, save_every, total) and step > 0
                if wanted or save or stopping:
                    numbers.flush(state)
                for name in wanted:
                    dog.doing(f"evaluator {name} at step {step}", EVALUATING)
                    numbers.evaluated(step, name, evaluators[name][0], state)
                if save or stopping or numbers.improved(step):
                    dog.doing(f"saving step {step}")
                    with numbers.clock.pause("save"):
                        saver.save(step, state.replace(frozen=None), meta=numbers.meta(step), metrics=numbers.results(step))
            if stopping or step == total:
                break
            dog.doing(f"step {step + 1}", COMPILING if step == start else 1)
            with numbers.clock.waiting("data"):
                batch = next(batches)
            state, metrics = train_step(state, batch)
            numbers.push(step + 1, metrics, state)
        dog.doing("the last save")
        lost = saver.blocked_seconds
        with numbers.clock.pause("save"):
            saver.wait()
        return numbers.finish(step, stopping, saver.saves, lost)


def agree_on_data(experiment: experiments.Experiment) -> None:
    """Errors: UserError where the processes of a run do not read the same data, told by the contents of the first batch."""
    if processes.count() > 1:
        parts = sorted(experiment.feed.whole(0).items())
        digest = zlib.crc32(b"".join(name.encode() + np.ascontiguousarray(array).tobytes() for name, array in parts))
        processes.agree("data", dict(examples=experiment.feed.examples_per_epoch, first_batch=digest))


def evaluate(experiment: experiments.Experiment, saver: Any, checkpoint: str | int, only: dict[str, Any]) -> tuple[int, dict]:
    """Returns (step, {name/metric: value}) of the evaluators in `only` for one checkpoint of a run."""
    state, _, step = resume.restore(experiment, saver, checkpoint)
    return step, {f"{name}/{key}": value for name, evaluator in only.items() for key, value in evaluator.run(state).items()}
