"""Learning-rate range test: an exponential sweep (Smith 2017, "Cyclical Learning Rates"); read it with `optim/range_test.py`."""

from collections.abc import Callable

import jax.numpy as jnp

from decoder_lab.optim.warmup import Schedule, progress, warm


def schedule(*, peak: float, total_steps: int, steps: Callable[[str], int], low: float = 1e-3, high: float = 1e3) -> Schedule:
    """lr = peak * low * (high / low)^(t / (T - 1)): from low * peak at the first update to high * peak at the last.

    `low` and `high` are factors on the config's lr: its default of 1e-3 is tried from 1e-6 to 1.
    """
    return warm(lambda u: peak * low * jnp.power(high / low, progress(u, total_steps - 1)), peak=peak, total_steps=total_steps, warmup=0)


def problems(kw) -> list[str]:
    """An exponential sweep goes up, and begins above zero."""
    return [] if 0 < kw["low"] < kw["high"] else [f"low, high: got {kw['low']}, {kw['high']}, expected 0 < low < high."]
