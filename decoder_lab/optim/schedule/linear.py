"""A straight line from one fraction of the peak to another, after an optional warm-up."""

from collections.abc import Callable

from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, progress, warm, warmup_steps


def schedule(
    *, peak: float, total_steps: int, steps: Callable[[str], int], start: float = 1.0, end: float = 0.0, warmup: Duration = "0"
) -> Schedule:
    """lr = peak * (start + (end - start) * u / (T - W)); start = 0, end = 1 rises, the defaults fall to zero."""
    rise = warmup_steps(warmup, total_steps, steps)

    def after(u):
        return peak * (start + (end - start) * progress(u, total_steps - rise))

    return warm(after, peak=peak * start, total_steps=total_steps, warmup=rise)
