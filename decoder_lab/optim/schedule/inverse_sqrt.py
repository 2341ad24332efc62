"""Inverse square root decay after a warm-up (Vaswani et al. 2017, section 5.3, "Noam").

The paper's lr = d_model^-0.5 * min(n^-0.5, n * W^-1.5) at step n has its peak, (d_model * W)^-0.5, at n = W. Here the peak is the
config's `lr`, so the same curve is `lr = factor / sqrt(d_model * W)` with a warm-up of W steps. The paper counts from n = 1, as does
the Annotated Transformer, which reads n = 0 as 1 so as not to divide by zero; here n = t, lr(0) = 0, and t = 0 never divides.
"""

from collections.abc import Callable

import jax.numpy as jnp

from decoder_lab.core.lookup import Duration
from decoder_lab.optim.warmup import Schedule, warm, warmup_steps


def schedule(
    *, peak: float, total_steps: int, steps: Callable[[str], int], warmup: Duration = "0", timescale: Duration | None = None
) -> Schedule:
    """lr = peak * sqrt(S / (S + u)), with u the steps since the warm-up and S the timescale.

    Without a timescale S = W, the warm-up itself (at least 1), and the curve is the paper's: peak * sqrt(W / t) for t >= W. A longer
    timescale falls more slowly. The decay does not depend on the length of the run and does not reach zero.
    """
    rise = warmup_steps(warmup, total_steps, steps)
    scale = max(1, rise if timescale is None else steps(timescale))
    return warm(lambda u: peak * jnp.sqrt(scale / (scale + u)), peak=peak, total_steps=total_steps, warmup=rise)
