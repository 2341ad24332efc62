"""Where a run starts: 1 the workdir's newest checkpoint, 2 part of another run (`config.init_from`), 3 scratch."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from decoder_lab.checkpoint import partial
from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes


def make_saver(config: Any, workdir: pathlib.Path, report: Callable[[str], None]) -> Saver:
    """The checkpoints of a run, kept as its config says."""
    wanted = config.checkpoint
    return Saver(
        workdir / "checkpoints", keep=wanted.keep, keep_best=wanted.keep_best, metric=wanted.metric, mode=wanted.mode, report=report
    )


def start_state(experiment: Any, saver: Saver) -> tuple[Any, int, dict]:
    """Returns (state, step to go on from, what the checkpoint's meta says)."""
    if saver.steps():
        shapes = jax.eval_shape(experiment.init_state)
        sharding = meshes.replicated(experiment.mesh)
        template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
        state, meta, step = saver.restore(template)
        experiment.report(f"going on from the checkpoint of step {step}")
        return state, step, meta
    state = experiment.init_state()
    source = experiment.config.init_from
    if source.workdir:
        taken = make_saver(experiment.config, _run(source.workdir), experiment.report).restore_params(_which(source.checkpoint))
        rules = dict(include=source.include, exclude=source.exclude, rename=source.rename.to_dict())
        params, lines = partial.init_from(state.params, taken, rules)
        experiment.report(lines)
        params = meshes.replicate(params, experiment.mesh)
        state = state.replace(params=params, ema=None if state.ema is None else jax.tree.map(lambda x: x.copy(), params))
    return state, 0, {}


def _run(workdir: str) -> pathlib.Path:
    if not (pathlib.Path(workdir) / "checkpoints").is_dir():
        raise UserError(f"init_from.workdir: expected the folder of a run (with checkpoints/ in it), got {workdir}.")
    return pathlib.Path(workdir)


def _which(checkpoint: str) -> str | int:
    return int(checkpoint) if checkpoint.isdigit() else checkpoint
