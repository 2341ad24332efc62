"""Warm-up, a long stable phase, a short decay (trapezoid; Zhai et al. 2022, Hu et al. 2024, Haegele et al. 2024).

A run can be made longer from a checkpoint of the stable phase, since nothing before the decay depends on the length of the run.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, fall, progress, warm, warmup_steps


def schedule(
    *,
    peak: float,
    total_steps: int,
    steps: Callable[[str], int],
    warmup: Duration = "0",
    decay: Duration = "20%",
    shape: Literal["linear", "cosine", "sqrt"] = "linear",
    floor: float = 0.0,
) -> Schedule:
    """lr = peak until the last `decay` of the run, then down to floor * peak; "sqrt" is 1 - sqrt(x), Haegele et al.'s best."""
    rise, drop = warmup_steps(warmup, total_steps, steps), steps(decay)
    if rise + drop > max(total_steps, 1):
        raise UserError(f"schedule: warm-up {rise} and decay {drop} steps are together longer than total_steps = {total_steps}.")

    def after(u):
        x = progress(u - (total_steps - rise - drop), drop)
        return peak * jnp.where(x > 0, floor + (1 - floor) * fall(x, shape), 1.0)

    return warm(after, peak=peak, total_steps=total_steps, warmup=rise)


def problems(kw) -> list[str]:
    """The floor is a fraction."""
    return [] if 0 <= kw["floor"] <= 1 else [f"floor: got {kw['floor']}, expected a fraction of the peak, 0 to 1."]
