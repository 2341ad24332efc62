"""Constant learning rate after an optional warm-up."""

from collections.abc import Callable

import jax.numpy as jnp

from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, warm, warmup_steps


def schedule(*, peak: float, total_steps: int, steps: Callable[[str], int], level: float = 1.0, warmup: Duration = "0") -> Schedule:
    """lr = level * peak. `level` other than 1 is for use in a chain."""
    top, rise = peak * level, warmup_steps(warmup, total_steps, steps)
    return warm(lambda u: jnp.full_like(u, top), peak=top, total_steps=total_steps, warmup=rise)
