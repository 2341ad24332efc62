"""Polynomial decay lr = lr0 (1 - t/T)^power, with an optional floor and warm-up."""

from collections.abc import Callable

from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, progress, warm, warmup_steps


def schedule(
    *, peak: float, total_steps: int, steps: Callable[[str], int], power: float = 1.0, floor: float = 0.0, warmup: Duration = "0"
) -> Schedule:
    """lr = peak * (floor + (1 - floor) * (1 - u / (T - W))^power).

    Without floor and warm-up that is peak * (1 - t/T)^power exactly. `floor` is a fraction of the peak: the curve is
    squeezed above it (as in optax.polynomial_schedule), not cut off by it.
    """
    rise = warmup_steps(warmup, total_steps, steps)

    def after(u):
        return peak * (floor + (1 - floor) * (1 - progress(u, total_steps - rise)) ** power)

    return warm(after, peak=peak, total_steps=total_steps, warmup=rise)


def problems(kw) -> list[str]:
    """The power must not be negative (lr would grow without bound), the floor a fraction."""
    found = [] if kw["power"] >= 0 else [f"power: got {kw['power']}, expected 0 or more."]
    return found if 0 <= kw["floor"] <= 1 else [*found, f"floor: got {kw['floor']}, expected a fraction of the peak, 0 to 1."]
