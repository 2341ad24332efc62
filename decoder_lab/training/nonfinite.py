"""A step with a non-finite loss or gradient: written down so that it can be run again, and looked at."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.training import step as steps

FOLDER = "nonfinite"


def write_down(experiment: Any, workdir: pathlib.Path, step: int, state: steps.TrainState) -> pathlib.Path:
    """Writes the batch, the state before it and the step's number into `workdir/nonfinite`; returns that folder.

    `state` may be some steps further: with on_nonfinite="stop" nothing but its counters changes after the bad step.
    """
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    index = step - 1  # the step that led from `index` to `step`
    np.savez(folder / "batch.npz", **experiment.feed.batch(index))
    before = state.replace(step=jnp.asarray(index, jnp.int32), skipped=jnp.zeros((), jnp.int32))
    with Saver(folder / f"state_{index}", keep=1) as saver:
        saver.save(index, before, meta={"step": index}, metrics={}, wait=True)
    key = jax.random.key_data(jax.random.fold_in(state.key, index))
    (folder / "step.json").write_text(json.dumps({"step": index, "key": np.asarray(key).tolist()}) + "\n")
    return folder


def replay(experiment: Any, workdir: pathlib.Path) -> Iterator[str]:
    """Yields lines on the loss, and on each parameter whose value or gradient is not finite, of the step that was written down."""
    folder = workdir / FOLDER
    if not (folder / "step.json").is_file():
        raise UserError(f"{workdir} holds no step to replay: {folder}/step.json is written when a run stops at a non-finite step.")
    index = json.loads((folder / "step.json").read_text())["step"]
    with Saver(folder / f"state_{index}", keep=1) as saver:
        state, _, _ = saver.restore(jax.eval_shape(experiment.init_state), index)
    with np.load(folder / "batch.npz") as stored:
        batch = dict(stored)

    def metrics_fn(params, batch, key):
        return experiment.task.metrics(experiment.model, params, batch, rng=key)

    @jax.jit
    def gradients(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        return steps.sum_gradients(metrics_fn, state.params, batch, key, experiment.config.accumulate)

    grads, metrics = gradients(state, batch)
    total, weight = metrics["loss"]
    yield f"step {index}: loss {float(total) / max(float(weight), 1e-6)}, {int(weight)} targets"
    for path, value in tree.flatten(state.params).items():
        bad = int((~np.isfinite(np.asarray(value))).sum())
        if bad:
            yield f"parameter {path}: {bad} of {value.size} values are not finite"
    for path, value in tree.flatten(grads).items():
        bad = int((~np.isfinite(np.asarray(value))).sum())
        largest = float(np.nanmax(np.abs(np.asarray(value, np.float64)))) if value.size else 0.0
        yield f"gradient {path}: {f'{bad} of {value.size} values are not finite' if bad else f'finite, largest {largest:.3g}'}"
