"""The warm-up that every schedule shares.

Convention: t counts finished optimiser updates, so the first update uses lr(0). A warm-up of W steps rises in a straight line from
`start * peak` at t = 0 to the peak at t = W; what follows sees u = t - W, from 0 up to T - W. With start = 0, which every schedule but
one_cycle has, the first update moves no weight and only begins to fill the optimiser's moments, as with optax and transformers (a warm-up
that begins at peak / W is this one, a step earlier). The last update of a run of T steps is t = T - 1: the value at T itself, where decays
reach their floor, is what a longer run would go on with. After T it stays.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.core import durations
from decoder_lab.core.errors import UserError

Schedule = Callable[[Any], jax.Array]  # step or steps (int, numpy or traced, any shape) -> learning rates, float32


def warmup_steps(duration: str, total_steps: int, steps: Callable[[str], int]) -> int:
    """Returns W, a warm-up in steps. A share of the run below 100% always fits, however short the run.

    Errors: UserError where the warm-up leaves nothing of the run.
    """
    if total_steps < 0:
        raise UserError(f"total_steps: got {total_steps}, expected 0 or more.")
    rise = steps(duration)
    number, unit = durations.parse(duration)
    if unit == "%" and number < 100:
        return min(rise, max(total_steps - 1, 0))
    if rise and rise >= total_steps:
        raise UserError(
            f'schedule: a warm-up of "{duration}" ({rise} steps) does not end within total_steps = {total_steps}. '
            'Make it shorter, for example warmup="5%", or train longer.'
        )
    return rise


def warm(after: Schedule, *, peak: float, total_steps: int, warmup: int, start: float = 0.0) -> Schedule:
    """Joins a warm-up of `warmup` steps and `after`, a function of the steps since the warm-up, clipped to [0, T - W]."""

    def schedule(step: Any) -> jax.Array:
        t = jnp.asarray(step).astype(jnp.float32)
        later = after(jnp.clip(t - warmup, 0, total_steps - warmup))
        rising = start + (1 - start) * t / max(warmup, 1)
        return jnp.where(t < warmup, peak * rising, later).astype(jnp.float32)

    return schedule


def progress(u: jax.Array, length: int) -> jax.Array:
    """Returns how much of `length` steps has passed, in [0, 1]; a length of 0 has not begun, never 0/0."""
    return jnp.clip(u / max(length, 1), 0.0, 1.0)


def fall(x: jax.Array, shape: str) -> jax.Array:
    """Returns a decay from 1 at x = 0 to 0 at x = 1: "linear" 1 - x, "cosine" (1 + cos pi x)/2, or "sqrt" 1 - sqrt(x)."""
    shapes = {
        "linear": lambda: 1 - x,
        "cosine": lambda: 0.5 * (1 + jnp.cos(jnp.pi * x)),
        "sqrt": lambda: 1 - jnp.sqrt(x),
    }
    return shapes[shape]()
