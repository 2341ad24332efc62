"""One cycle: up to the peak, then down far below where it began (Smith and Topin 2018, "Super-Convergence")."""

from collections.abc import Callable
from typing import Literal

from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, fall, progress, warm, warmup_steps


def schedule(
    *,
    peak: float,
    total_steps: int,
    steps: Callable[[str], int],
    warmup: Duration = "30%",
    start: float = 0.04,
    floor: float = 4e-6,
    shape: Literal["cosine", "linear"] = "cosine",
) -> Schedule:
    """A straight rise from start * peak to the peak, then a decay of the given shape to floor * peak at T.

    `start` and `floor` are fractions of the peak; their defaults are the usual 1/25 and (1/25)/1e4. The momentum is left alone.
    """
    rise = warmup_steps(warmup, total_steps, steps)

    def after(u):
        return peak * (floor + (1 - floor) * fall(progress(u, total_steps - rise), shape))

    return warm(after, peak=peak, total_steps=total_steps, warmup=rise, start=start)
