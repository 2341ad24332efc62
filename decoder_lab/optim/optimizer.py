"""Config -> optax: clipping, the optimiser by its name, weight decay and learning-rate multipliers by parameter path.

Conventions, the same for every optimiser:
- Clipping is by the global norm of the whole gradient, before anything else sees it; `train_step` has divided and summed it by then.
- `weight_decay` acts on the parameters that no pattern of `no_decay` matches: with the usual patterns on kernels, and not on biases,
  norm scales and embeddings. Names decide, not ranks, for scanned layers stack their biases to matrices. It is decoupled and follows the
  learning rate, p -= lr * weight_decay * p (Loshchilov and Hutter 2019), unless the optimiser has another place of its own for it
  (inside the trust ratio of lamb and lars; added to the gradient, as L2, by adadelta, cocob, dog and dowg).
- `lr_multipliers` scale the whole update, decay included; 0 keeps a parameter exactly as it is. Where several patterns match, their
  factors multiply, so their order means nothing.
- The state is a pytree of optax's own tuples, float32 where it holds moments; every count in it is of optimiser steps.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from decoder_lab.core import lookup, tree
from decoder_lab.core.errors import UserError

# Names that a model may lack: no error where such a pattern of no_decay matches nothing.
OFTEN_ABSENT = ("bias$", "scale$", "embedding$")

NOT_MUON = r"embed|(^|/)(lm_head|head|logits)/"  # matrices that look up or score tokens: Adam's, by the authors' advice

UNSUPPORTED = {
    "dpsgd": "needs the gradient of every example on its own, which a training step does not have",
    "lbfgs": "needs the loss as a function for its line search, which a training step does not give",
    "momo": "needs the value of the loss, which a training step does not give to the optimiser",
    "momo_adam": "needs the value of the loss, which a training step does not give to the optimiser",
    "optimistic_adam": "is deprecated and takes no schedule: use optimistic_adam_v2",
    "rprop": "adapts its steps to the sign of full-batch gradients and takes no schedule",
    "schedule_free": "wraps another optimiser: use schedule_free_adamw or schedule_free_sgd",
    "sophia": "needs the loss as a function for its Hessian, which a training step does not give",
}
TAKES_NO_SCHEDULE = ("sm3",)  # gets 1, its updates are scaled afterwards
SELF_TUNING = ("dadapt_adamw", "prodigy")  # find their own step size, which a decay of lr * weight_decay would not follow


def make(
    config: Any,
    total_steps: int,
    steps: Callable[[str], int],
    params: Any,
    scaling: optax.GradientTransformation | None = None,
    undecayed: tuple[str, ...] = (),
) -> tuple[optax.GradientTransformation, Callable[[Any], jax.Array]]:
    """Returns (the optimiser, learning rate as a function of the optimiser step).

    The optimiser's `update` takes the rate of its step as `lr`, so that a compiled step need not hold the schedule; without it the count
    in the state says which it is.

    Args:
      config: has `lr, weight_decay, clip_norm` (0 is off), `optimizer` (name, kw, no_decay, lr_multipliers) and `schedule` (name, kw).
      total_steps: optimiser steps of the run.
      steps: duration -> optimiser steps.
      params: the parameters or their shapes; patterns are checked against their paths.
      scaling: what else is done to finished updates, after lr_multipliers.
      undecayed: patterns beside those of the config's no_decay, which may match nothing.
    Errors: UserError for a pattern that matches nothing and for what an optimiser cannot do.
    """
    chosen = config.optimizer
    lr_fn = make_schedule(config, total_steps, steps)
    no_decay, multipliers = tuple(chosen.no_decay), _plain(chosen.lr_multipliers)
    tree.check_patterns(params, [p for p in no_decay if p not in OFTEN_ABSENT], "optimizer.no_decay")
    tree.check_patterns(params, multipliers, "optimizer.lr_multipliers")
    decayed = jax.tree.map(lambda skipped: not skipped, tree.mask(params, (*no_decay, *undecayed)))
    by_path = scale_by_path(params, multipliers)
    scaling = by_path if scaling is None else optax.chain(by_path, scaling)
    build = _schedule_free if chosen.name.startswith("schedule_free_") else _by_name
    clipping = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []

    def built(rate: Callable) -> optax.GradientTransformation:
        return optax.chain(*clipping, build(chosen.name, _plain(chosen.kw), rate, config.weight_decay, decayed, scaling, params))

    by_count = built(lr_fn)

    def update(updates: Any, state: Any, params: Any = None, *, lr: jax.Array | None = None) -> tuple[Any, Any]:
        return (by_count if lr is None else built(lambda count: lr)).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(by_count.init, update), lr_fn


def make_schedule(config: Any, total_steps: int, steps: Callable[[str], int]) -> Callable[[Any], jax.Array]:
    """Returns the config's learning rate as a function of the optimiser step; arguments as of `make`. Errors: UserError if it is none."""
    made = lookup.make("schedule", config.schedule, peak=config.lr, total_steps=total_steps, steps=steps)
    try:
        shape = jax.eval_shape(made, jax.ShapeDtypeStruct((), jnp.int32)).shape
    except Exception as error:  # a user's own function
        said = str(error).strip().split("\n")[0]
        raise UserError(
            f"schedule {config.schedule.name}: expected a function of the step, traced by JAX (jax.numpy, not math), got {made!r:.60}: "
            f"{type(error).__name__}: {said}"
        ) from error
    if shape != ():
        raise UserError(f"schedule {config.schedule.name}: expected one rate for a step, got an array of shape {list(shape)}.")
    return made


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """Returns the parameters to evaluate: a schedule-free optimiser's average; `params` themselves for every other optimiser."""

    def is_average(node: Any) -> bool:
        return isinstance(node, optax.contrib.ScheduleFreeState)

    for node in jax.tree.leaves(opt_state, is_leaf=is_average):
        if is_average(node):
            return optax.contrib.schedule_free_eval_params(node, params)
    return params


def scale_by_path(params: Any, multipliers: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each parameter's update by the factors of all patterns that match its path."""
    factors = jax.tree.map(lambda _: 1.0, params)
    for pattern, factor in multipliers.items():
        factors = jax.tree.map(lambda f, hit, by=factor: f * by if hit else f, factors, tree.mask(params, [pattern]))
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u if f == 1 else u * f, updates, factors))


def decoupled_weight_decay(rate: float, lr_fn: Callable, decayed: Any) -> optax.GradientTransformation:
    """Adds -lr * rate * p to finished updates, where `decayed` (a tree of bool) is true. Stands after the optimiser."""

    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: optax.ScaleByScheduleState, params: Any) -> tuple[Any, optax.ScaleByScheduleState]:
        pull = lr_fn(state.count) * rate
        updates = jax.tree.map(lambda u, p, on: u - pull * p if on else u, updates, params, decayed)
        return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _by_name(name, kw, lr_fn, weight_decay, decayed, scaling, params) -> optax.GradientTransformation:
    if name in UNSUPPORTED:
        raise UserError(f"optimizer {name} {UNSUPPORTED[name]}.")
    if name in SELF_TUNING and weight_decay:
        raise UserError(f"optimizer {name} finds its own step size, which no decay by path can follow: say weight_decay=0.0.")
    function = lookup.find("optimizer", name)
    accepted = inspect.signature(function).parameters
    mask_name = next((m for m in ("mask", "weight_decay_mask") if m in accepted), None)
    # adafactor's own decay is not multiplied by lr (0.1 would take a tenth of every weight at each step); muon's leaves Adam's part out
    own = "weight_decay" in accepted and mask_name is not None and name != "muon"
    given = {"weight_decay": weight_decay, mask_name: decayed} if own else {"weight_decay": 0.0} if "weight_decay" in accepted else {}
    if name == "muon":
        if kw.get("adam_learning_rate") is not None:  # optax would hold it constant, whatever the schedule does
            raise UserError("optimizer muon: instead of adam_learning_rate use optimizer.lr_multipliers on Adam's parameters.")
        given["muon_weight_dimension_numbers"] = _muon_dimensions(params)
    kw = {k: v for k, v in kw.items() if not (k in given and v is None)}  # a complete config names every argument
    try:
        if name in TAKES_NO_SCHEDULE:
            parts = [function(learning_rate=1.0, **given, **kw), optax.scale_by_schedule(lr_fn)]
        else:
            parts = [function(learning_rate=lr_fn, **given, **kw)]
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {name}: {error}. Its arguments are {', '.join(accepted)}.") from error
    if weight_decay and not own:
        parts.append(decoupled_weight_decay(weight_decay, lr_fn, decayed))
    return optax.chain(*parts, scaling)


def _muon_dimensions(params: Any) -> Callable[[Any], Any]:
    """Muon's parameters: kernels [..., in, out] inside the network, leading axes (scanned layers) one by one; None marks Adam's."""
    kernels = tree.mask(params, [r"kernel$"])
    scores = tree.mask(params, [NOT_MUON])
    chosen = {
        path: k and not s and leaf.ndim >= 2
        for (path, leaf), k, s in zip(tree.flatten(params).items(), jax.tree.leaves(kernels), jax.tree.leaves(scores), strict=True)
    }
    if not any(chosen.values()):
        raise UserError("optimizer muon: there is nothing for it; it takes matrices whose path ends in kernel, but no embedding or head.")
    numbers = optax.contrib.MuonDimensionNumbers(-2, -1)
    return lambda some: jax.tree.map(lambda path: numbers if chosen[path] else None, tree.paths(some))


def _schedule_free(name, kw, lr_fn, weight_decay, decayed, scaling, params) -> optax.GradientTransformation:
    """optax's schedule_free_adamw and _sgd with what they leave out: a schedule, a decay mask, multipliers (Defazio et al. 2024).

    Decay and multipliers must act on the steps of z, inside the wrapper: outside they would pull x, y and z apart.
    """
    if kw.get("warmup_steps") is not None:
        raise UserError(f'optimizer {name}: set the warm-up in the schedule, schedule=dict(name="constant", kw=dict(warmup="5%")).')
    defaults = {p.name: p.default for p in inspect.signature(lookup.find("optimizer", name)).parameters.values()}
    chosen = {**defaults, **kw}
    if not chosen["b1"] > 0:
        raise UserError(f"optimizer {name}: b1: got {chosen['b1']}, expected more than 0 (0 leaves no average to evaluate).")
    parts = []
    if name == "schedule_free_adamw":
        parts.append(optax.scale_by_rms(decay=chosen["b2"], eps=chosen["eps"], eps_in_sqrt=False, bias_correction=True))
    parts += [optax.add_decayed_weights(weight_decay, decayed), optax.scale_by_learning_rate(lr_fn), scaling]
    return optax.contrib.schedule_free(
        optax.chain(*parts),
        learning_rate=lambda count: lr_fn(count - 1),  # the wrapper counts from 1, everything in it from 0
        b1=chosen["b1"],
        weight_lr_power=chosen["weight_lr_power"],
        state_dtype=chosen["state_dtype"],
    )


def _plain(kw: Any) -> dict:
    """ConfigDict or mapping -> dict."""
    return kw.to_dict() if hasattr(kw, "to_dict") else dict(kw)
