"""One optimiser step as pure maths: sums of loss and gradient over micro-batches and devices, divided once by the global weight."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from decoder_lab.core import tree
from decoder_lab.core.errors import UserError


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes, as one pytree; with the config it determines the rest of the run.

    Attributes:
      step: int32 scalar, steps taken.
      params: parameters, float32.
      opt_state: optax state.
      ema: moving average of the parameters, or None.
      key: typed PRNG key of the run; the key of step s is `fold_in(key, s)`.
      skipped: int32 scalar, updates that were not applied: loss or gradient was not finite, or there was nothing to predict.
      halted: bool scalar, a non-finite step came under on_nonfinite="stop"; nothing is applied any more.
      frozen: parameters that are not trained, with an adapter; None without. Checkpoints do not hold them.
      adapter: what the adapter remembers from step to step; None for nothing.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    key: jax.Array
    skipped: jax.Array
    halted: jax.Array
    frozen: Any = None
    adapter: Any = None


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What an adapter (`adapters.base.Adapter`) adds to a step, in a run of so many steps; `steps`: duration -> steps."""

    adapter: Any
    total_steps: int
    steps: Callable[[str], int]

    def penalty(self, params: Any) -> jax.Array | None:
        """Returns what is added to the mean loss, None for nothing."""
        return self.adapter.penalty(params)

    def follow(self, state: TrainState, grads: Any) -> Any:
        """Returns what the adapter remembers after a step."""
        return self.adapter.follow(state.adapter, state.params, grads, state.step, self.total_steps, self.steps)

    def project(self, params: Any, memory: Any) -> Any:
        """Returns trained parameters, or None, as the adapter restricts them."""
        return None if params is None else self.adapter.project(params, memory)


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a step does where each device runs it on rows of its own (`parallel/replicated.py`); as it is, for all rows at once, nothing.

    total: (gradients, sums of metrics) -> their sums over the devices; own_key: key -> another on every device.
    """

    total: Callable[[Any], Any] = lambda tree: tree
    own_key: Callable[[jax.Array], jax.Array] = lambda key: key


def joined(params: Any, frozen: Any) -> Any:
    """Returns all parameters of a model."""
    return params if frozen is None else tree.join(frozen, params)


def of_trained(metrics_fn: Callable, frozen: Any) -> Callable:
    """Returns `metrics_fn` as a function of the trained parameters alone."""
    return metrics_fn if frozen is None else lambda params, *rest, **named: metrics_fn(joined(params, frozen), *rest, **named)


def init_state(params: Any, optimizer: optax.GradientTransformation, seed: int, use_ema: bool) -> TrainState:
    """Returns the state before the first step. The EMA starts as a copy of the parameters."""
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params) if use_ema else None
    return TrainState(zero, params, optimizer.init(params), ema, jax.random.fold_in(jax.random.key(seed), 1), zero, jnp.zeros((), bool))


def sum_gradients(
    metrics_fn: Callable,
    params: Any,
    batch: dict,
    key: jax.Array,
    accumulate: int,
    penalty: Callable = lambda params: None,
    total: Callable = lambda metrics: metrics,
) -> tuple[Any, dict]:
    """Returns (gradient of the summed loss, summed metrics) over `accumulate` micro-batches; what `penalty` returns is added to the mean.

    Sums, never means of means: however the examples are cut into micro-batches, the result is the same up to rounding. The mean of what
    layers add ("auxiliary", `training/auxiliary.py`) is one over all micro-batches, and over all devices where `total` sums over them.
    Micro-batch i takes rows i, i + accumulate, ... so that rows stay on the device that holds them.
    """

    def sums(params, batch, key):
        metrics = metrics_fn(params, batch, key)
        shapes = {name: jax.tree.map(lambda x: list(jnp.shape(x)), pair) for name, pair in metrics.items()}
        if "loss" not in metrics or any(not isinstance(shape, tuple | list) or [*shape] != [[], []] for shape in shapes.values()):
            raise UserError(f'the task\'s metrics: expected {{"loss": (sum, weight), ...}}, scalars that add up, got arrays of {shapes}.')
        loss, weight = metrics["loss"]
        of_layers = [metrics["auxiliary"][0]] if "auxiliary" in metrics else []
        if (extra := penalty(params)) is not None:  # beside the loss, which stays comparable with that of other runs
            weight = jax.lax.stop_gradient(weight)
            loss, metrics = loss + weight * extra, {**metrics, "penalty": (weight * extra, weight)}
        return [loss, *of_layers], metrics

    def gradient(batch, key, share):
        outs, pull, metrics = jax.vjp(lambda params: sums(params, batch, key), params, has_aux=True)
        return pull([jnp.ones_like(outs[0]), *(share(metrics).astype(x.dtype) for x in outs[1:])])[0], metrics

    if accumulate == 1:
        return gradient(batch, key, lambda metrics: _share(total(metrics)))
    micro = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

    def weights(inputs):  # known before anything is differentiated: the compiler leaves out all that they do not need
        index, part = inputs
        metrics = metrics_fn(params, part, jax.random.fold_in(key, index))
        return {name: (0.0, metrics[name][1]) for name in ("loss", "auxiliary")}

    @functools.cache
    def of_all():  # asked by layers with losses alone
        everywhere = jax.lax.map(weights, (jnp.arange(accumulate), micro))
        return _share(total(jax.tree.map(lambda x: jnp.sum(x, axis=0), everywhere)))

    def add(sofar, inputs):
        index, part = inputs
        return jax.tree.map(jnp.add, sofar, gradient(part, jax.random.fold_in(key, index), lambda _: of_all())), None

    first = gradient(jax.tree.map(lambda x: x[0], micro), jax.random.fold_in(key, 0), lambda _: of_all())
    rest = jax.tree.map(lambda x: x[1:], micro)
    return jax.lax.scan(add, first, (jnp.arange(1, accumulate), rest))[0]


def _share(metrics: dict) -> jax.Array:
    """Returns what the sum of the layers' losses is multiplied by beside the sum of the task's: its mean counts as the loss's does."""
    return metrics["loss"][1] / jnp.maximum(metrics["auxiliary"][1], 1.0)


def at_step(metrics_fn: Callable, step: jax.Array, total_steps: int | None) -> Callable:
    """Returns `metrics_fn` with the progress of a run of `total_steps` at this step filled in."""
    return metrics_fn if total_steps is None else functools.partial(metrics_fn, progress=step.astype(jnp.float32) / total_steps)


def make_train_step(
    metrics_fn: Callable,
    optimizer: optax.GradientTransformation,
    lr_fn: Callable,
    *,
    accumulate: int,
    ema: float,
    on_nonfinite: str,
    total_steps: int | None = None,
    adapter: Hooks | None = None,
    devices: Devices = Devices(),
) -> Callable[..., tuple[TrainState, dict]]:
    """Returns `train_step(state, batch, lr=None) -> (state, metrics)`; with the step's learning rate given, the program holds no schedule.

    Args:
      metrics_fn: `(params, batch, key) -> {name: (sum, weight)}`; "loss" is what is trained. With `total_steps` it takes `progress`
        too, the share of the run that is done, float32 in [0, 1], for what changes inside a loss over the run.
      optimizer: takes the mean gradient; clips it by its global norm if the config says so.
      lr_fn: optimiser step -> learning rate, reported where it is not given.
      accumulate: micro-batches a step.
      ema: decay, 0 for none.
      on_nonfinite: "skip" leaves state as it was at a bad step; "stop" leaves it so from the first bad step on, so that the state
        that the loop sees one step later is still the one from which the bad step can be replayed.
      total_steps: of the whole run.
      adapter: what an adapter adds.
      devices: how devices that run the step on rows of their own act as one.
    """
    penalty = (lambda params: None) if adapter is None else adapter.penalty

    def train_step(state: TrainState, batch: dict, lr: jax.Array | None = None) -> tuple[TrainState, dict]:
        key = devices.own_key(jax.random.fold_in(state.key, state.step))
        trained_fn = of_trained(at_step(metrics_fn, state.step, total_steps), state.frozen)
        sums = sum_gradients(trained_fn, state.params, batch, key, accumulate, penalty, lambda metrics: devices.total(({}, metrics))[1])
        grads, metrics = devices.total(sums)
        loss_sum, weight = metrics["loss"]
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-6), grads)
        norm = optax.tree.norm(grads)
        given = {} if lr is None else {"lr": lr}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **given)
        params = optax.apply_updates(state.params, updates)
        average = None if state.ema is None else jax.tree.map(lambda e, p: ema * e + (1 - ema) * p, state.ema, params)
        memory = state.adapter
        if adapter is not None:
            memory = adapter.follow(state, grads)
            params, average = adapter.project(params, memory), adapter.project(average, memory)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss_sum)
        apply = finite & (weight > 0) & ~state.halted
        halted = state.halted | ~finite if on_nonfinite == "stop" else state.halted
        new, old = (params, opt_state, average, memory), (state.params, state.opt_state, state.ema, state.adapter)
        params, opt_state, average, memory = jax.tree.map(lambda n, o: jnp.where(apply, n, o), new, old)
        metrics = {**metrics, "grad_norm": (norm, 1.0), "lr": (lr_fn(state.step - state.skipped) if lr is None else lr, 1.0)}
        skipped = state.skipped + jnp.where(apply, 0, 1).astype(jnp.int32)
        return TrainState(state.step + 1, params, opt_state, average, state.key, skipped, halted, state.frozen, memory), metrics

    return train_step
