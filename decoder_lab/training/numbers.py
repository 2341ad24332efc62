"""The numbers of a run on their way out: read one step late, checked to be finite, written, and the best remembered."""

import json
import math
import pathlib
import time
from typing import Any

import jax

from decoder_lab.core import config as config_lib
from decoder_lab.core import runtime, tree
from decoder_lab.core.durations import due
from decoder_lab.core.errors import UserError, unknown
from decoder_lab.parallel import processes
from decoder_lab.training import experiment as experiments
from decoder_lab.training import nonfinite
from decoder_lab.training.company import Company


class Numbers:
    """Takes what each step and each evaluation returned; everything written goes through here."""

    def __init__(self, experiment: Any, workdir: pathlib.Path, start: int, meta: dict, stop: runtime.StopSignals):
        self.experiment, self.workdir = experiment, workdir
        self.writers = experiments.make_writers(experiment.config, workdir, start)
        self.clock = experiment.clock()
        self.company = Company(experiment.mesh, stop, self.clock)
        self.total = experiment.clockwork.total_steps
        self.log_every = experiment.clockwork.steps(experiment.config.log.every)
        self.best: dict[str, float] = dict(meta.get("best", {}))  # {"step": ..., "value": ...} of checkpoint.metric
        self._pending: tuple[int, dict] | None = None
        self._results: dict[int, dict[str, float]] = {}
        self._improved: int | None = None
        self._first = True
        self._latest: dict[str, float] = {}
        self._beside: dict[str, float] = {}  # `Clock.beside` of the last line

    def push(self, step: int, metrics: dict, state: Any) -> None:
        """Takes the still-running numbers of `step`; reads those of the step before."""
        self.flush(state)
        self._pending = (step, metrics)

    def flush(self, state: Any) -> None:
        """Waits for the pending step's numbers, refuses non-finite ones, writes them if a line is due."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        with self.clock.waiting("device"):
            metrics = jax.device_get(metrics)
        values = {name: _mean(pair) for name, pair in metrics.items()}
        if self._first:
            self._first = False
            self.experiment.report(
                f"first step done after {time.process_time():.1f} CPU-seconds of this process, imports and compilation included"
            )
        self.clock.step()
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            self._not_finite(step, values, state)
        if metrics["loss"][1] == 0:
            self.experiment.report(f"warning: step {step} had nothing to predict (all weights 0): loss 0 by definition, no update")
        if due(step, self.log_every, self.total):
            self._beside = self.clock.beside()
            times = self.clock.scalars() | self.company.scalars() | self._beside
            self.writers.scalars(step, {f"train/{k}": v for k, v in values.items()} | times)
        self._latest |= {"loss": values["loss"], "lr": values["lr"]}
        self.writers.progress(step, self.total, self._latest | self.clock.progress(self.total - step))

    def _not_finite(self, step: int, values: dict[str, float], state: Any) -> None:
        what = f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}"
        if self.experiment.config.on_nonfinite == "skip":
            self.experiment.report(f"warning: {what}; the update was skipped")
            return
        folder = nonfinite.write_down(self.experiment, self.workdir, step, state)
        raise UserError(
            f"{what}: stopped. The step's batch and the state before it are in {folder}; no update was applied.\n"
            f"Look at it: python -m decoder_lab.main --mode=replay --workdir={self.workdir}\n"
            "Usual mends: a lower --config.lr, longer warm-up, --config.clip_norm=1, --config.dtype=float32, --config.on_nonfinite=skip."
        )

    def evaluated(self, step: int, name: str, evaluator: Any, state: Any) -> None:
        """Runs one evaluator and writes what it returns: numbers as scalars, strings as text, dicts as details."""
        with self.clock.pause("evaluate"):
            try:
                found = evaluator.run(state)
            except UserError:
                raise
            except Exception as error:
                error.add_note(f"while evaluator {name!r} ran at step {step}")
                raise
        scalars = processes.common(name, {f"{name}/{k}": v for k, v in found.items() if not isinstance(v, str | dict)})
        texts = {f"{name}/{k}": v for k, v in found.items() if isinstance(v, str)}
        details = {f"{name}/{k}": v for k, v in found.items() if isinstance(v, dict)}
        if scalars:
            self.writers.scalars(step, scalars)
        if texts:
            self.writers.text(step, texts)
        if details:
            self.writers.details(step, details)
        self._results.setdefault(step, {}).update(scalars)
        self._note_best(step, name, scalars)

    def _note_best(self, step: int, name: str, scalars: dict[str, float]) -> None:
        wanted = self.experiment.config.checkpoint
        if wanted.metric.split("/")[0] != name:
            return
        if wanted.metric not in scalars:
            raise UserError(unknown("checkpoint.metric", wanted.metric, sorted(scalars)))
        value, sign = scalars[wanted.metric], 1 if wanted.mode == "min" else -1
        if not math.isnan(value) and (not self.best or sign * value < sign * self.best["value"]):
            self.best = {"step": step, "value": value}
            self._improved = step

    def improved(self, step: int) -> bool:
        """Whether the best value so far was found at this step (after training began)."""
        return self._improved == step and step > 0

    def results(self, step: int) -> dict[str, float]:
        """The evaluations' numbers of this step."""
        return self._results.get(step, {})

    def meta(self, step: int) -> dict:
        """What a checkpoint remembers beside the state. The data position is the step: the batch is a function of (seed, step)."""
        config = self.experiment.config
        about = {
            "data_position": step,
            "data": self.experiment.rows("train").key,
            "task": self.experiment.task.fingerprint(),
            "layout": getattr(self.experiment.feed, "layout", None),
            "multiple": getattr(self.experiment.feed, "multiple", None),
            "best": self.best,
            "base": self.experiment.adaptation.origin,
            "teacher": self.experiment.teacher_origin,
            "num_parameters": tree.count(self.experiment.adaptation.shapes),  # an adapter's base included, which is not in the checkpoint
            "config": json.loads(config_lib.to_json(config)),
        }
        return {**about, "config_hash": config_lib.digest(config), "versions": runtime.versions()}

    def finish(self, step: int, stopped: str | None, saves: int, lost: float) -> int:
        """Says where the time went, `lost` seconds of it in saves, how the run ended and how to go on; returns the exit code."""
        if line := self.company.summary():
            self.experiment.report(line)
        if saves:
            self.experiment.report(f"{saves} saves held the run up for {lost / saves:.2f} s each, {self.clock.share(lost)}")
        if stopped and step < self.total:
            self.writers.stopped()
            self.experiment.report(f"stopped by {stopped} after step {step} of {self.total}; saved. The same command goes on from here.")
            return runtime.EXIT_RESUMABLE
        if self._latest:  # of a step's lines the last one counts: with what the line of the last step said
            rest = self.clock.beside()
            self.writers.scalars(step, {name: rest.get(name, 0.0) + self._beside.get(name, 0.0) for name in {**self._beside, **rest}})
        best = (
            f"; best {self.experiment.config.checkpoint.metric} {self.best['value']:.6g} at step {self.best['step']}" if self.best else ""
        )
        self.experiment.report(f"done: {step} steps{best}")
        return 0

    def close(self) -> None:
        """Closes the writers."""
        self.writers.close()


def _mean(pair: tuple) -> float:
    total, weight = pair
    return float(total) / float(weight) if weight else float(total)
