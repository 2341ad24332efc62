"""An experiment on its devices: the mesh, where everything lies on it, and the step that is compiled for it.

`experiment` is a `training.experiment.Experiment`, whose attributes these are.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from decoder_lab.core import backend, tree
from decoder_lab.core.errors import UserError
from decoder_lab.layers import linear, quantized_product
from decoder_lab.parallel import activations, limits, replicated
from decoder_lab.parallel import layout as layouts
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import step as steps


def mesh(experiment: Any) -> jax.sharding.Mesh:
    """The mesh of all devices that the config asks for. Errors: UserError for sizes that do not fit them."""
    return meshes.of_config(experiment.config)


def layout(experiment: Any) -> layouts.Layout:
    """Where on the mesh parameters and what belongs to them lie. Errors: UserError for what cannot be on this mesh."""
    found = layouts.of_config(experiment.config, experiment.mesh)
    limits.check(experiment.config, found, experiment.adaptation.shapes)
    return found


def init_state(experiment: Any, params: Any, frozen: Any) -> steps.TrainState:
    """The state before the first step of trained and frozen parameters, laid out over the mesh."""
    optimizer, where = experiment.optimizer, experiment.layout
    if not where.is_whole:  # no device may hold all of it; elsewhere not compiled: each array of zeros would be a kernel
        moments = where.beside(jax.eval_shape(optimizer.init, params), params)
        optimizer = optimizer._replace(init=jax.jit(optimizer.init, out_shardings=moments))
    state = steps.init_state(params, optimizer, experiment.config.seed, experiment.config.ema > 0)
    state = tree.unshared(state.replace(frozen=frozen, adapter=experiment.adaptation.begin(params)))
    return meshes.place(state, where.of_state(state))


def check_rows_meet(experiment: Any) -> None:
    """Errors: UserError where the task compares a batch's rows, and they are not all computed together."""
    config = experiment.config
    apart = dict(accumulate=f"{config.accumulate} micro-batches") if config.accumulate > 1 else {}
    apart |= dict(parallel="pmap's devices") if config.parallel == "pmap" else {}
    if apart and getattr(experiment.task, "rows_meet", False):
        raise UserError(
            f"{', '.join(apart)}: task {config.task.name} compares all rows of a batch, and {' and '.join(apart.values())} would see their "
            'own: it is another loss. Use accumulate=1 and parallel="jit", with more devices or a smaller batch_size.'
        )


def jitted_step(experiment: Any) -> Callable:
    """The step as `jax.jit` (or `jax.pmap`) has it: called, or lowered for shapes that say where they lie."""
    config, adapter, clock = experiment.config, experiment.adaptation.adapter, experiment.clockwork
    mapped = config.parallel == "pmap"
    devices = steps.Devices(lambda found: _as_params(experiment, found))
    if mapped:
        devices = steps.Devices(replicated.total, replicated.own_key)
    step = steps.make_train_step(
        experiment.training_metrics,
        experiment.optimizer,
        experiment.lr_fn,
        accumulate=config.accumulate,
        ema=config.ema,
        on_nonfinite=config.on_nonfinite,
        total_steps=clock.total_steps,
        adapter=None if adapter is None else steps.Hooks(adapter, clock.total_steps, clock.steps),
        devices=devices,
    )
    if mapped:
        return replicated.by_pmap(step, experiment.mesh)
    where = meshes.replicated(experiment.mesh)
    if not experiment.layout.is_whole:
        where = experiment.layout.of_state(jax.eval_shape(experiment.init_state))
    whole = meshes.replicated(experiment.mesh)
    laid = laid_out(experiment, step)
    compiled = jax.jit(laid, donate_argnums=0, out_shardings=(where, whole), compiler_options=_compiler_options(experiment))
    return Step(compiled, jax.jit(lambda step, skipped: experiment.lr_fn(step - skipped), out_shardings=whole))


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step that is told its learning rate, which a program of its own works out: another schedule needs no other step."""

    compiled: Any
    rate: Callable

    def __call__(self, state: steps.TrainState, batch: dict) -> tuple[steps.TrainState, dict]:
        return self.compiled(state, batch, self.rate(state.step, state.skipped))

    def trace(self, state: Any, batch: Any) -> Any:
        """What jax.jit makes of arguments, or of shapes that say where they lie."""
        return self.compiled.trace(state, batch, jax.eval_shape(self.rate, state.step, state.skipped))

    def lower(self, state: Any, batch: Any) -> Any:
        return self.trace(state, batch).lower()


def _compiler_options(experiment: Any) -> dict[str, Any] | None:
    """Returns XLA's options for the step. Errors: UserError for one that the compiler of these devices does not know or take."""
    options = backend.compiler_options(experiment.mesh.size, experiment.config.compiler_options.to_dict())
    if experiment.config.compiler_options:
        number = jax.ShapeDtypeStruct((), "float32", sharding=meshes.replicated(experiment.mesh))
        try:
            jax.jit(lambda x: x, compiler_options=options).lower(number).compile()
        except jax.errors.JaxRuntimeError as error:
            raise UserError(f"compiler_options: XLA says: {str(error).removeprefix('INVALID_ARGUMENT: ')}") from error
    return options or None


def multiplying(matmul: str) -> contextlib.AbstractContextManager:
    """A context in which linear maps multiply as `config.matmul` says. Errors: UserError where a library for it is missing."""
    if matmul == "dtype":
        return contextlib.nullcontext()
    quantized_product.qwix()
    return linear.multiplying(functools.partial(_in_8_bits, form=matmul))


def _in_8_bits(x: jax.Array, kernel: jax.Array, out_dtype: Any, form: str) -> jax.Array:
    return quantized_product.product(x, kernel, out_dtype, form)


def laid_out(experiment: Any, function: Callable) -> Callable:
    """Returns a function, to be compiled, in which what the model's layers give lies on the mesh as the layout says."""
    return activations.laid_out(function, experiment.layout)


def _as_params(experiment: Any, found: tuple[Any, dict]) -> tuple[Any, dict]:
    """Returns (gradients, metrics) with the gradients where the parameters lie: their sums over devices need not be whole anywhere."""
    grads, metrics = found
    where = experiment.layout
    return grads if where.is_whole else jax.lax.with_sharding_constraint(grads, where.of_params(grads)), metrics
