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

from decoder_lab.core import tree
from decoder_lab.data import cache
from decoder_lab.data.examples import Examples, Feature
from decoder_lab.data.rows import ExampleRows
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel import processes
from decoder_lab.training import resume
from decoder_lab.training import step as steps

NAME = "reference"


def completed(experiment: Any, rows: Any, split: str) -> Any:
    """Returns the rows, where the task asks so with the feature "reference", float32 [E, 2]: from the run's folder, or worked out now."""
    if not getattr(experiment.task, "has_reference", False):
        return rows
    path, about = experiment.workdir / f"{NAME}-{split}.npz", _about(experiment, rows)
    values = _stored(path, about) if _has_begun(experiment) else None  # until then a base of the same name may be another one
    if not processes.share("reference", values is not None):
        experiment.report(f"{split}: working out the log-probabilities of {len(rows.examples):,} examples under the initial parameters")
        # on its own, so that the base's parameters are gone when the run's are made, and are not reported twice
        values = _worked_out(dataclasses.replace(experiment, report=cache.silent), rows)
        if processes.first():
            _store(path, about, values)
    return attached(rows, values)


def attached(rows: ExampleRows, values: np.ndarray) -> ExampleRows:
    """Returns the rows with the feature "reference": values, float32 [E, 2], of every example."""
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
    base, given = resume.base_params(experiment)
    # all that the run begins with: an adapter that goes on, or is not neutral at first, and a base in fewer bits
    joined = tree.join(experiment.adaptation.joined(base), tree.nest(given))
    params = steps.joined(*experiment.adaptation.split(joined))
    task, model, mesh = experiment.task, experiment.model, experiment.mesh
    compute = jax.jit(experiment.laid_out(lambda params, batch: task.reference(model, params, batch)))
    devices = meshes.num_shares(mesh)
    values = np.zeros((len(rows.examples), 2), np.float32)
    wanted = -(-experiment.config.batch_size // devices) * devices
    for e_B, batch in rows.plan(wanted, devices).evaluation():
        found_B2 = np.asarray(meshes.fetch(compute(params, meshes.shard_whole(batch, mesh)), mesh))
        values[e_B[e_B >= 0]] = found_B2[e_B >= 0]
    return values


def _has_begun(experiment: Any) -> bool:
    return any(path.name.isdecimal() for path in (experiment.workdir / "checkpoints").glob("*"))


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
