"""Step decay: the learning rate is multiplied by a factor at each of several moments."""

from collections.abc import Callable

import jax.numpy as jnp

from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, warm, warmup_steps


def schedule(
    *,
    peak: float,
    total_steps: int,
    steps: Callable[[str], int],
    drops: tuple[Duration, ...] = ("50%", "75%"),
    factor: float = 0.1,
    warmup: Duration = "0",
) -> Schedule:
    """lr = peak * factor^(number of drops at or before t). Drops are counted from the start of the run, warm-up included."""
    rise = warmup_steps(warmup, total_steps, steps)
    moments = [steps(drop) for drop in drops]
    if sorted(moments) != moments or (moments and moments[0] < max(rise, 1)):
        named = ", ".join(f"{drop} (step {moment})" for drop, moment in zip(drops, moments, strict=True))
        raise UserError(f"schedule step: drops must rise and come after the warm-up of {rise} steps; got {named}.")

    def after(u):
        passed = sum(jnp.where(u + rise >= moment, 1.0, 0.0) for moment in moments) + jnp.zeros_like(u)
        return peak * factor**passed

    return warm(after, peak=peak, total_steps=total_steps, warmup=rise)
