"""Where a run starts: 1 the workdir's newest checkpoint, 2 part of another run (`config.init_from`), 3 scratch."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from decoder_lab.checkpoint import partial
from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes


def make_saver(config: Any, workdir: pathlib.Path, report: Callable[[str], None]) -> Saver:
    """The checkpoints of a run, kept as its config says."""
    wanted = config.checkpoint
    return Saver(
        workdir / "checkpoints", keep=wanted.keep, keep_best=wanted.keep_best, metric=wanted.metric, mode=wanted.mode, report=report
    )


def template(experiment: Any) -> Any:
    """Shapes, dtypes and layout of the experiment's state, for a checkpoint to be restored onto."""
    sharding = meshes.replicated(experiment.mesh)
    shapes = jax.eval_shape(experiment.init_state)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def start_state(experiment: Any, saver: Saver) -> tuple[Any, int, dict]:
    """Returns (state, step to go on from, what the checkpoint's meta says)."""
    if saver.steps():
        state, meta, step = saver.restore(template(experiment))
        experiment.report(f"going on from the checkpoint of step {step}")
        if meta.get("data") != experiment.rows("train").key:
            experiment.report(
                "warning: the training data is not what the checkpoint was trained on (text, file times or tokenisation changed)"
            )
        return state, step, meta
    source = experiment.config.init_from
    if not source.workdir:
        return experiment.init_state(), 0, {}
    taken, step = inference_params(experiment.of_run(pathlib.Path(source.workdir)), source.checkpoint)
    experiment.report(f"initial parameters from step {step} of {source.workdir}")
    rules = dict(include=source.include, exclude=source.exclude, rename=source.rename.to_dict())
    params, report = partial.init_from(experiment.init_params(), taken, rules)
    experiment.report(str(report))
    return experiment.init_state(params), 0, {}


def inference_params(experiment: Any, checkpoint: str) -> tuple[Any, int]:
    """Returns (parameters to generate with, step) of a run's checkpoint: the average where the run kept one.

    Only they are read, unless they come out of the optimiser's state (schedule-free).
    """
    if not (experiment.workdir / "checkpoints").is_dir():
        raise UserError(f"expected the folder of a run (with checkpoints/ in it), got {experiment.workdir}.")
    saver = make_saver(experiment.config, experiment.workdir, experiment.report)
    if experiment.config.optimizer.name.startswith("schedule_free_"):
        state, _, step = saver.restore(template(experiment), which(checkpoint))
        return experiment.evaluation_params(state), step
    found, _, step = saver.restore_params(which(checkpoint))
    params = found.get("ema") or found["params"]
    if lines := tree.diff(experiment.parameter_shapes, params):
        listing = "\n".join(f"  {line}" for line in lines)
        raise UserError(
            f"checkpoint {step} of {experiment.workdir} does not fit this config (expected: this config; got: the run):\n{listing}"
        )
    return params, step


def which(checkpoint: str) -> str | int:
    """A checkpoint as the command line names it: "best", "latest" or a step."""
    return int(checkpoint) if checkpoint.isdecimal() else checkpoint
