"""A step with a non-finite loss or gradient: written down so that it can be run again, and looked at."""

import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import processes
from decoder_lab.training import resume
from decoder_lab.training import step as steps

FOLDER = "nonfinite"
STATE = "state"


def write_down(experiment: Any, workdir: pathlib.Path, step: int, state: steps.TrainState) -> pathlib.Path:
    """Writes the batch, the state before it and the step's number into `workdir/nonfinite`; returns that folder.

    `state` may be some steps further: with on_nonfinite="stop" nothing but its counters changes after the bad step.
    """
    folder = workdir / FOLDER
    index = step - 1  # the step that led from `index` to `step`
    if processes.first():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "batch.npz", **experiment.feed.whole(index))
        shutil.rmtree(folder / STATE, ignore_errors=True)
    processes.gather("nonfinite", None)
    since = state.step - index  # steps since then, none of them applied
    before = state.replace(step=jnp.asarray(index, jnp.int32), skipped=state.skipped - since, halted=jnp.zeros((), bool), frozen=None)
    Saver(folder / STATE).save(index, before, meta={"base": experiment.adaptation.origin}, wait=True)
    key = jax.random.key_data(jax.random.fold_in(state.key, index))
    if processes.first():
        (folder / "step.json").write_text(json.dumps({"step": index, "key": np.asarray(key).tolist()}) + "\n")
    return folder


def replay(experiment: Any, workdir: pathlib.Path) -> Iterator[str]:
    """Yields lines on the loss, and on each parameter whose value or gradient is not finite, of the step that was written down."""
    folder = workdir / FOLDER
    if not (folder / "step.json").is_file():
        raise UserError(f"{workdir} holds no step to replay: {folder}/step.json is written when a run stops at a non-finite step.")
    index = json.loads((folder / "step.json").read_text())["step"]
    state, _, _ = resume.restore(experiment, Saver(folder / STATE), index)
    with np.load(folder / "batch.npz") as stored:
        batch = dict(stored)

    @jax.jit
    def gradients(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        metrics_fn = steps.at_step(experiment.training_metrics, state.step, experiment.clockwork.total_steps)
        return steps.sum_gradients(steps.of_trained(metrics_fn, state.frozen), state.params, batch, key, experiment.config.accumulate)

    grads, metrics = gradients(state, batch)
    total, weight = metrics["loss"]
    yield f"step {index}: loss {float(total) / max(float(weight), 1e-6)}, {int(weight)} targets"
    for what, values in (("parameter", state.params), ("gradient", grads)):
        for path, value in tree.flatten(values).items():
            yield f"{what} {path}: {_finiteness(np.asarray(value, np.float32))}"


def _finiteness(value: np.ndarray) -> str:
    finite = np.isfinite(value)
    largest = f"largest {np.abs(value[finite]).max():.3g}" if finite.any() else "none finite"
    return f"finite, {largest}" if finite.all() else f"{(~finite).sum()} of {value.size} values are not finite, {largest}"
