"""Reading a range test: synthetic sweeps whose right answer is known."""

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.optim import range_test

LRS = np.geomspace(1e-6, 1.0, 300)


def sweep(steepest=-3.2, diverges=-1.0, noise=0.03, seed=0):
    """A loss that falls fastest at 10^steepest and explodes around 10^diverges."""
    x = np.log10(LRS)
    losses = 4.2 - 2 / (1 + np.exp(-3 * (x - steepest))) + np.exp(8 * (x - diverges))
    return losses + np.random.default_rng(seed).normal(0, noise, len(x))


@pytest.mark.parametrize("steepest", [-4.5, -3.5, -2.8])
@pytest.mark.parametrize("seed", range(3))
def test_the_steepest_fall_is_found_through_noise(steepest, seed):
    lr = range_test.suggest(LRS, sweep(steepest, seed=seed))
    assert lr in LRS
    assert abs(np.log10(lr) - steepest) < 0.3


def test_never_less_than_a_decade_below_divergence():
    losses = sweep(steepest=-1.6, diverges=-1.2, noise=0.0)
    assert range_test.suggest(LRS, losses) <= 10**-1.2 / 10 * 1.5


def test_losses_after_a_non_finite_one_are_not_read():
    losses = sweep()
    clean = range_test.suggest(LRS[:200], losses[:200])
    losses[200] = np.nan
    losses[201:] = -1e9
    assert range_test.suggest(LRS, losses) <= min(LRS[200] / 10, clean)


def test_smoothing_keeps_a_constant_and_does_not_shift_a_line():
    np.testing.assert_allclose(range_test.smooth(np.full(50, 3.0)), 3.0)
    line = np.arange(100.0)
    np.testing.assert_allclose(range_test.smooth(line)[10:-10], line[10:-10])


@pytest.mark.parametrize(
    "lrs,losses,problem",
    [
        (LRS, np.linspace(1, 2, 300), "never fell"),
        (LRS[:5], np.linspace(2, 1, 5), "10 or more"),
        (LRS, np.full(300, np.nan), "10 or more"),
        (np.ones(300), np.linspace(2, 1, 300), "rise"),
        (LRS[:-1], np.linspace(2, 1, 300), "one loss for each"),
    ],
)
def test_what_cannot_be_read_is_an_error(lrs, losses, problem):
    with pytest.raises(UserError, match=problem):
        range_test.suggest(lrs, losses)


def test_rates_may_repeat_after_the_loss_diverged():
    """A skipped update does not advance the schedule, so the rate stands still from the first non-finite loss on."""
    lrs = np.geomspace(1e-5, 1.0, 60)
    losses = 3 - 2 / (1 + np.exp(-(np.log10(lrs) + 3) * 3))
    clean = range_test.suggest(lrs[:50], losses[:50])
    losses[50:] = np.nan
    repeated = np.concatenate([lrs[:51], np.full(9, lrs[50])])
    assert range_test.suggest(repeated, losses) <= clean
