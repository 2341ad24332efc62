"""Cosine decay with warm restarts (SGDR; Loshchilov and Hutter 2017, equation 5)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, fall, progress, warm, warmup_steps


def schedule(
    *,
    peak: float,
    total_steps: int,
    steps: Callable[[str], int],
    cycle: Duration = "25%",
    growth: float = 1.0,
    shrink: float = 1.0,
    floor: float = 0.0,
    warmup: Duration = "0",
) -> Schedule:
    """Cycle i lasts cycle * growth^i steps and falls from peak * shrink^i to floor * peak; the run's end cuts the last one short.

    The warm-up stands before the first cycle only.
    """
    rise, first = warmup_steps(warmup, total_steps, steps), max(1, steps(cycle))
    if growth < 1:
        raise UserError(f"schedule cosine_restarts: growth: got {growth}, expected 1 or more.")
    begins = [0.0]
    while begins[-1] <= total_steps - rise:
        begins.append(begins[-1] + max(1, round(first * growth ** (len(begins) - 1))))
    begins = np.asarray(begins, np.float32)

    def after(u):
        index = jnp.searchsorted(begins, u, side="right") - 1
        begin = jnp.asarray(begins)[index]
        length = jnp.asarray(np.diff(begins))[index]
        top = peak * shrink ** index.astype(jnp.float32)
        return peak * floor + jnp.maximum(top - peak * floor, 0.0) * fall(progress((u - begin) / length, 1), "cosine")

    return warm(after, peak=peak, total_steps=total_steps, warmup=rise)


def problems(kw) -> list[str]:
    """Cycles never get shorter, or there would be endlessly many of them."""
    return [] if kw["growth"] >= 1 else [f"growth: got {kw['growth']}, expected 1 or more."]
