"""What a task wants to know of the parameters that a run began with, of every example of a split: worked out once, before the first step.

Only preference tuning asks (`Task.has_reference`). The numbers lie in the run's folder and come with the batches, so that while training no
second model is in memory, and a resumed run has the same ones to the bit.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from decoder_lab.data import cache
from decoder_lab.data.examples import Examples, Feature
from decoder_lab.data.rows import ExampleRows
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import resume

NAME = "reference"


def completed(experiment: Any, rows: Any, split: str) -> Any:
    """Returns the rows, where the task asks so with the feature "reference", float32 [E, 2]: from the run's folder, or worked out now."""
    if not getattr(experiment.task, "has_reference", False):
        return rows
    path, about = experiment.workdir / f"{NAME}-{split}.npz", _about(experiment, rows)
    values = _stored(path, about)
    if values is None:
        experiment.report(f"{split}: working out the log-probabilities of {len(rows.examples):,} examples under the initial parameters")
        # on its own, so that the base's parameters are gone when the run's are made, and are not reported twice
        values = _worked_out(dataclasses.replace(experiment, report=cache.silent), rows)
        _store(path, about, values)
    ends = np.cumsum(rows.examples.sizes)[:-1]
    shards = [
        dataclasses.replace(shard, features={**shard.features, NAME: Feature(part, part.dtype)})
        for shard, part in zip(rows.examples.shards, np.split(values, ends), strict=True)
    ]
    examples = Examples(shards, rows.examples.weights)
    return ExampleRows(dataclasses.replace(rows.packing, examples=examples), examples)


def _about(experiment: Any, rows: ExampleRows) -> dict:
    """What the numbers depend on; compared when they are read."""
    source = experiment.config.init_from
    base = [source.workdir, source.checkpoint] if source.workdir else [experiment.config.seed]
    return json.loads(json.dumps(dict(data=rows.key, base=base, dtype=experiment.config.dtype)))


def _worked_out(experiment: Any, rows: ExampleRows) -> np.ndarray:
    params, _ = resume.base_params(experiment)
    task, model, mesh = experiment.task, experiment.model, experiment.mesh
    compute = jax.jit(lambda params, batch: task.reference(model, params, batch))
    values = np.zeros((len(rows.examples), 2), np.float32)
    wanted = -(-experiment.config.batch_size // mesh.size) * mesh.size
    for e_B, batch in rows.plan(wanted, mesh.size).evaluation():
        found_B2 = np.asarray(compute(params, meshes.shard_batch(batch, mesh)))
        values[e_B[e_B >= 0]] = found_B2[e_B >= 0]
    return values


def _stored(path: pathlib.Path, about: dict) -> np.ndarray | None:
    """Returns the numbers of a file, None where there is none or it holds others."""
    if not path.is_file():
        return None
    with np.load(path) as found:
        return found["values"] if json.loads(str(found["about"])) == about else None


def _store(path: pathlib.Path, about: dict, values: np.ndarray) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(part, "wb") as file:
        np.savez(file, values=values, about=json.dumps(about))
    os.replace(part, path)
