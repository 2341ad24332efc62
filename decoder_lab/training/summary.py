"""What is said at the start of a run: devices, parameters, batches, memory, kernels."""

from typing import Any

import jax

from decoder_lab.core import runtime, tree, units
from decoder_lab.parallel import layout as layouts
from decoder_lab.parallel import mesh as meshes


def line(experiment: Any) -> str:
    """One line of what runs where: devices, parameters, tokens a step, memory of the state, attention kernel and dtype really used."""
    config = experiment.config
    adaptation = experiment.adaptation
    trained, layout = adaptation.trained_shapes, experiment.layout
    opt_state = jax.eval_shape(experiment.optimizer.init, trained)
    opt_state = layouts.on_a_device(opt_state, layout.beside(opt_state, trained))
    parts = runtime.memory_estimate(layouts.on_a_device(trained, layout.of_params(trained)), opt_state, config.ema > 0)
    if adaptation.adapter is not None:
        kept = jax.eval_shape(lambda params: adaptation.split(params)[1], adaptation.shapes)
        frozen = tree.num_bytes(layouts.on_a_device(kept, layout.of_params(kept)))
        parts = {"frozen": frozen, **parts, "total": parts["total"] + frozen}
    if experiment.teacher is not None:
        teacher = tree.num_bytes(experiment.teacher.parameter_shapes)
        parts = {"teacher": teacher, **parts, "total": parts["total"] + teacher}
    memory = ", ".join(f"{name} {units.size(size)}" for name, size in parts.items() if size)
    described = getattr(experiment.model, "describe", None)
    kernel = f"; {described(jax.default_backend(), config.sequence_length)}" if described else ""
    return (
        f"{runtime.device_summary()}{_mesh(experiment)}; {adaptation.summary()}; {batches(experiment)}, "
        f"{experiment.clockwork.total_steps:,} steps; memory a device: {memory}; compute in {config.dtype}{kernel}"
    )


def _mesh(experiment: Any) -> str:
    """How the devices share the work, where it is not by rows alone."""
    mapped = " by pmap" if experiment.config.parallel == "pmap" else ""
    zero1 = ", optimizer state in pieces" if experiment.layout.zero1 else ""
    return "" if experiment.layout.is_whole and not mapped else f", {meshes.describe(experiment.mesh)}{mapped}{zero1}"


def batches(experiment: Any) -> str:
    """How much a step reads, and in how many shapes."""
    if not experiment.by_example:
        return f"{experiment.config.batch_size * experiment.config.sequence_length:,} tokens a step"
    feed = experiment.feed
    shapes = ", ".join(f"{bucket.rows} x {bucket.width}" for bucket in feed.plan.buckets)
    return (
        f"{feed.tokens_per_step:,.0f} tokens a step on average, in {len(feed.shapes)} shapes of batches, each compiled once "
        f"({shapes}; {feed.plan.padding:.1%} padding), {feed.plan.num_batches:,} steps an epoch"
    )
