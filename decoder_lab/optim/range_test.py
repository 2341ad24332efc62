"""Reads a learning-rate range test (Smith 2017): the losses of one run whose learning rate rose exponentially."""

from collections.abc import Sequence

import numpy as np

from decoder_lab.core.errors import UserError

WINDOW = 0.1  # of the sweep: width of the smoothing window
DIVERGED = 0.2  # of the loss's whole fall, given back: from there on it diverges


def smooth(losses: Sequence[float], width: float = WINDOW) -> np.ndarray:
    """Returns the losses averaged by a Hann window of `width` (a share of all), float64 [steps].

    The window is centred: unlike a running average, the result does not lag behind, which would suggest too high a rate.
    """
    losses = np.asarray(losses, np.float64)
    half = max(1, round(len(losses) * width / 2))
    window = np.hanning(2 * half + 3)[1:-1]
    weights = np.convolve(np.ones_like(losses), window, mode="same")
    return np.convolve(losses, window, mode="same") / weights


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Returns the learning rate where the smoothed loss falls fastest along log lr, but at most a tenth of where it diverges.

    It diverges where, after its lowest value, the smoothed loss has given back a fifth of its fall, or a loss is not finite. The result
    is one of `lrs`; a good peak for a schedule that decays.

    Args:
      lrs: learning rate of each step, rising.
      losses: training loss of each step, of the same length.
    Errors: UserError for fewer than 10 finite steps, for rates that do not rise, or where the loss never fell.
    """
    lrs, losses = np.asarray(lrs, np.float64), np.asarray(losses, np.float64)
    if lrs.shape != losses.shape or lrs.ndim != 1:
        raise UserError(f"range test: got {lrs.shape} learning rates and {losses.shape} losses, expected one loss for each.")
    bad = np.flatnonzero(~np.isfinite(losses))
    end = int(bad[0]) if bad.size else len(losses)
    if end < 10:
        raise UserError(f"range test: got {end} steps with a finite loss, expected 10 or more; sweep from a lower rate or over more steps.")
    if not (np.all(lrs[:end] > 0) and np.all(np.diff(lrs[:end]) > 0)):  # after a skipped update the rate repeats
        raise UserError("range test: the learning rates must be above zero and rise from step to step; schedule range_test gives such.")
    curve = smooth(losses[:end])
    lowest = int(np.argmin(curve))
    fall = curve[0] - curve[lowest]
    if lowest < 2 or not fall > 0:
        raise UserError("range test: the loss never fell; sweep from a lower rate (schedule.kw.low), or over more steps.")
    beyond = np.flatnonzero(curve[lowest:] > curve[lowest] + DIVERGED * fall)
    limit = lrs[lowest + beyond[0]] if beyond.size else lrs[end] if bad.size else np.inf
    slope = np.gradient(curve[: lowest + 1], np.log(lrs[: lowest + 1]))
    steepest = lrs[int(np.argmin(slope))]
    below = lrs[lrs <= max(limit / 10, lrs[0])]
    return float(min(steepest, below[-1]))
