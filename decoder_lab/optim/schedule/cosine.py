"""Half a cosine from the peak to a floor, after an optional warm-up (Loshchilov and Hutter 2017, one cycle)."""

from collections.abc import Callable

from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, fall, progress, warm, warmup_steps


def schedule(*, peak: float, total_steps: int, steps: Callable[[str], int], floor: float = 0.0, warmup: Duration = "0") -> Schedule:
    """lr = peak * (floor + (1 - floor) * (1 + cos(pi u / (T - W))) / 2); `floor` is a fraction of the peak."""
    rise = warmup_steps(warmup, total_steps, steps)

    def after(u):
        return peak * (floor + (1 - floor) * fall(progress(u, total_steps - rise), "cosine"))

    return warm(after, peak=peak, total_steps=total_steps, warmup=rise)


def problems(kw) -> list[str]:
    """The floor is a fraction."""
    return [] if 0 <= kw["floor"] <= 1 else [f"floor: got {kw['floor']}, expected a fraction of the peak, 0 to 1."]
