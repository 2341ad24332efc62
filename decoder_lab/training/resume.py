"""Where a run starts: 1 the workdir's newest checkpoint, 2 part of another run (`config.init_from`), 3 scratch.

A checkpoint of an adapted run holds what is trained. The rest comes again from where it came from, 2 or 3, and must be the same to the bit.
"""

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from decoder_lab.checkpoint import partial, snapshot
from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel import processes
from decoder_lab.training import step as steps
from decoder_lab.training import teacher, weights


def make_saver(config: Any, workdir: pathlib.Path, report: Callable[[str], None]) -> Saver:
    """The checkpoints of a run, kept as its config says."""
    wanted = config.checkpoint
    return Saver(
        workdir / "checkpoints", keep=wanted.keep, keep_best=wanted.keep_best, metric=wanted.metric, mode=wanted.mode, report=report
    )


def template(experiment: Any) -> Any:
    """Shapes, dtypes and layout of what a checkpoint holds of the experiment's state: all but what an adapter leaves as it is."""
    shapes = jax.eval_shape(lambda: experiment.init_state().replace(frozen=None))
    where = experiment.layout.of_state(shapes)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, where)


def restore(experiment: Any, saver: Saver, checkpoint: int | str | None = None) -> tuple[Any, dict, int]:
    """Returns (the whole state, meta, step) of a checkpoint; what it does not hold is brought from where it came from, and compared."""
    state, meta, step = saver.restore(template(experiment), checkpoint)
    if experiment.adaptation.adapter is not None:
        base, _ = base_params(experiment, meta.get("base", {}))
        frozen = experiment.adaptation.split(base)[1]
        state = state.replace(frozen=meshes.place(frozen, experiment.layout.of_params(frozen)))
    return with_teacher(experiment, state, meta.get("teacher", {})), meta, step


def start_state(experiment: Any, saver: Saver) -> tuple[Any, int, dict]:
    """Returns (state, step to go on from, what the checkpoint's meta says)."""
    if there := processes.share("checkpoints at the start", saver.steps()):
        if there == [0]:
            weights.refuse_to_go_on(saver.directory / "0", experiment.workdir)
        state, meta, step = restore(experiment, saver)
        experiment.report(f"going on from the checkpoint of step {step}")
        if meta.get("data") != experiment.rows("train").key:
            experiment.report(
                "warning: the training data is not what the checkpoint was trained on (text, file times or tokenisation changed)"
            )
        elif meta.get("layout") and meta["layout"] != experiment.feed.layout:  # rows are multiples of devices * accumulate
            experiment.report(
                f"warning: examples come in another order from here on: batches of {experiment.feed.layout} rows, before {meta['layout']}"
            )
        return state, step, meta
    return with_teacher(experiment, experiment.init_state(*base_params(experiment))), 0, {}


def rows_multiple(workdir: pathlib.Path, needed: int) -> int:
    """Returns what the rows of batches of examples are to be multiples of: what the run began with, if it is a multiple of `needed`.

    So a run that goes on on fewer devices keeps its batches, and the order of its examples.
    """
    for step in sorted((int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()), reverse=True):
        with contextlib.suppress(snapshot.Damaged):
            begun = snapshot.read_record(workdir / "checkpoints" / str(step))["meta"].get("multiple")
            return begun if begun and begun % needed == 0 else needed
    return needed


def with_teacher(experiment: Any, state: Any, expected: Mapping[str, Any] | None = None) -> Any:
    """Returns the state with the parameters of the task's teacher, if it has one, among those that are not trained.

    `expected` is what a checkpoint says of them: the step of the teacher's run and their fingerprint. Errors: UserError where they differ.
    """
    if experiment.teacher is None:
        return state
    teacher.check(experiment, experiment.teacher)
    params, step = all_params(experiment.teacher, str((expected or {}).get("checkpoint", experiment.config.task.kw.checkpoint)))
    if not expected:
        experiment.report(f"the teacher: step {step} of {experiment.teacher.workdir}, {tree.count(params):,} parameters")
    experiment.teacher_origin = teacher.origin(experiment.teacher, params, step, expected or {})
    placed = meshes.place(params, experiment.layout.of_params(params))
    return state.replace(frozen=tree.join(state.frozen or {}, {"teacher": placed}))


def base_params(experiment: Any, expected: Mapping[str, Any] | None = None) -> tuple[Any, dict]:
    """Returns (the model's own parameters, {path: array} of what the source has of what the adapter adds): fresh, or from init_from.

    `expected` is what a checkpoint says of them: the step of init_from's run and the fingerprint of those that are not trained; nothing is
    reported then. Errors: UserError where they differ.
    """
    source, adaptation, expected = experiment.config.init_from, experiment.adaptation, expected or {}
    given = weights.initial_adapter(experiment, pathlib.Path(source.adapter)) if source.adapter and not expected else {}
    if not source.workdir:
        fresh = experiment.init_params()
        adaptation.take(fresh, {}, expected)
        return fresh, given
    taken, step = source_params(experiment, str(expected.get("checkpoint", source.checkpoint)))
    taken, added = _without(taken, adaptation.added)
    rules = dict(include=source.include, exclude=source.exclude, rename=source.rename.to_dict())
    rules |= dict(first_rows=source.first_rows, extend=source.extend, stretch=source.stretch)
    params, report = partial.init_from(_laid_out(experiment), taken, rules)
    adaptation.check_loaded(report.initial)
    if report.initial:  # only these are drawn: the others are in memory once
        params = tree.join(params, experiment.init_params(set(report.initial)))
    if not expected:
        experiment.report(f"initial parameters from step {step} of {source.workdir}")
        run = not weights.is_directory(pathlib.Path(source.workdir))
        if run and experiment.of_run(pathlib.Path(source.workdir)).tokenizer.fingerprint() != experiment.tokenizer.fingerprint():
            experiment.report(
                f"warning: the tokenizer is not that of {source.workdir}: embeddings that are taken stand for other tokens here"
            )
        experiment.report(str(report) + (f"\nand of what the adapter adds: {len(added)}" if added else ""))
    adaptation.take(params, {"workdir": source.workdir, "checkpoint": step}, expected)
    return params, added | given


def _laid_out(experiment: Any) -> Any:
    """Returns the shapes of the model's own parameters, and where on the mesh they lie."""
    shapes = experiment.adaptation.base_shapes
    where = experiment.layout.of_params(shapes)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, where)


def source_params(experiment: Any, checkpoint: str) -> tuple[Any, int]:
    """Returns (parameters, step) of the run that init_from names: of an adapted one merged, or all that it has for the same adapter.

    Of a model's directory of Hugging Face: the parameters as lazy arrays, step 0.
    """
    if weights.is_directory(pathlib.Path(experiment.config.init_from.workdir)):
        return weights.initial(experiment, pathlib.Path(experiment.config.init_from.workdir)), 0
    other = experiment.of_run(pathlib.Path(experiment.config.init_from.workdir))
    params, step = all_params(other, checkpoint)
    theirs, ours = other.adaptation.adapter, experiment.adaptation.adapter
    if theirs is None or (theirs == ours and experiment.adaptation.added <= tree.flatten(params).keys()):
        return params, step
    return theirs.merge(params), step


def inference_params(experiment: Any, checkpoint: str) -> tuple[Any, int]:
    """Returns (parameters to generate with, step) of a run's checkpoint: the average where it kept one, an adapter merged if it can be.

    Only they are read, unless they come out of the optimiser's state (schedule-free).
    """
    params, step = all_params(experiment, checkpoint)
    adapter = experiment.adaptation.adapter
    return (params if adapter is None else adapter.folded(params)), step


def all_params(experiment: Any, checkpoint: str) -> tuple[Any, int]:
    """Returns (all parameters, those of an adapter beside the model's own, step) of a run's checkpoint; the average where it kept one."""
    if not (experiment.workdir / "checkpoints").is_dir():
        raise UserError(f"expected the folder of a run (with checkpoints/ in it), got {experiment.workdir}.")
    saver = make_saver(experiment.config, experiment.workdir, experiment.report)
    if experiment.config.optimizer.name.startswith("schedule_free_"):
        state, meta, step = restore(experiment, saver, which(checkpoint))
        _warn_of_other_examples(experiment, meta)
        return experiment.evaluation_params(state), step
    found, meta, step = saver.restore_params(which(checkpoint))
    _warn_of_other_examples(experiment, meta)
    params = found.get("ema") or found["params"]
    if lines := tree.diff(experiment.adaptation.trained_shapes, params):
        listing = "\n".join(f"  {line}" for line in lines)
        raise UserError(
            f"checkpoint {step} of {experiment.workdir} does not fit this config (expected: this config; got: the run):\n{listing}"
        )
    if experiment.adaptation.adapter is not None:
        base, _ = base_params(experiment, meta.get("base", {}))
        params = steps.joined(params, experiment.adaptation.split(base)[1])
    return params, step


def _warn_of_other_examples(experiment: Any, meta: Mapping[str, Any]) -> None:
    """Says where the task makes other tokens of the same text than it did in training: its settings, or this package, have changed."""
    was, now = meta.get("task"), experiment.task.fingerprint()
    if was not in (None, now):
        what = f"the checkpoint in {experiment.workdir} was trained on"
        experiment.report(f"warning: the task writes its examples in another way than {what} ({was}; now: {now})")


def _without(params: Any, paths: set[str]) -> tuple[Any, dict[str, Any]]:
    """Returns (params without these paths, {path: leaf} of those that it had)."""
    inside, rest = tree.split(params, paths)
    return rest, tree.flatten(inside)


def which(checkpoint: str) -> str | int:
    """A checkpoint as the command line names it: "best", "latest" or a step."""
    return int(checkpoint) if checkpoint.isdecimal() else checkpoint
