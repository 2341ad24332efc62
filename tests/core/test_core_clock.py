"""Properties of the clock, with a time that is told it."""

import numpy as np
import pytest

from decoder_lab.core import clock as clocks
from decoder_lab.core.clock import Clock


class Time:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def now():
    return Time()


def run(clock, now, steps, seconds_each):
    for _ in range(steps):
        now.now += seconds_each
        clock.step()


def test_compiling_is_not_counted(now):
    clock = Clock(tokens_per_step=10, now=now)
    assert clock.scalars() == {} and clock.progress(5) == {}
    now.now += 60.0  # the first step compiles
    clock.step()
    assert clock.scalars() == {} and clock.progress(5) == {}
    run(clock, now, 4, 0.5)
    assert clock.scalars() == {"time/steps_per_s": 2.0, "time/tokens_per_s": 20.0}
    assert clock.progress(6) == {"tokens_per_s": 20.0, "seconds_left": 3.0}


def test_pauses_slow_nothing_down_but_the_end_comes_later(now):
    clock = Clock(tokens_per_step=10, now=now)
    clock.step()
    run(clock, now, 2, 0.5)
    with pytest.raises(KeyError), clock.pause("evaluate"):
        now.now += 1.0
        raise KeyError  # an evaluation that fails is still no training time
    run(clock, now, 2, 0.5)
    assert clock.scalars()["time/tokens_per_s"] == 20.0
    assert clock.progress(4) == {"tokens_per_s": 20.0, "seconds_left": 3.0}
    assert clock.paused_seconds == 1.0
    with clock.pause("save"):
        now.now += 0.5
    assert clock.beside() == {"time/evaluate_seconds": 1.0, "time/save_seconds": 0.5} and clock.beside() == {}


def test_a_step_behind_a_compilation_is_not_counted_and_nothing_is_compiled_again(now):
    """Batches of several shapes compile one after the other; the device goes on meanwhile, so such steps seem to take no time."""
    clock = Clock(tokens_per_step=10, now=now)
    clock.step()
    for _ in range(3):
        with clock.pause("compile"):
            now.now += 40.0
        run(clock, now, 1, 0.001)
        assert clock.scalars() == {} and clock.progress(9) == {}
    run(clock, now, 4, 0.5)
    assert clock.scalars()["time/tokens_per_s"] == pytest.approx(20.0)
    with clock.pause("save"):
        now.now += 1.0
    assert clock.progress(4) == pytest.approx({"tokens_per_s": 20.0, "seconds_left": 3.0})
    assert clock.share(1.0).startswith(f"{1 / (120 + 0.003 + 2 + 1):.1%}")


def test_a_pause_before_the_first_step_is_no_part_of_the_run(now):
    clock = Clock(tokens_per_step=1, now=now)
    with clock.pause("compile"):
        now.now += 50.0
    clock.step()
    run(clock, now, 2, 1.0)
    assert clock.progress(2)["seconds_left"] == 2.0


def test_scalars_tell_the_speed_since_the_last_line_and_progress_that_of_the_run(now):
    clock = Clock(tokens_per_step=1, now=now)
    clock.step()
    run(clock, now, 10, 1.0)
    clock.scalars()
    run(clock, now, 10, 0.25)
    assert clock.scalars()["time/steps_per_s"] == 4.0
    assert clock.scalars() == {}
    assert clock.progress(0)["tokens_per_s"] == 20 / 12.5


def test_mfu_is_the_flops_needed_over_those_possible(now):
    clock = Clock(tokens_per_step=1000, flops_per_token=6e6, peak=1e11, now=now)
    clock.step()
    run(clock, now, 5, 0.5)
    assert clock.scalars()["time/mfu"] == pytest.approx(1000 / 0.5 * 6e6 / 1e11)
    assert clock.progress(1)["mfu"] == pytest.approx(0.12)


@pytest.mark.parametrize(
    "kind, flops",
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", 70e12),
    ],
)
def test_peak_by_the_names_that_jax_gives_to_devices(kind, flops):
    """A name may contain another one ("H100" in "H100 PCIe"); the nearer one counts."""
    assert clocks.peak_flops(kind, 1) == flops
    assert clocks.peak_flops(kind, 8) == 8 * flops


@pytest.mark.parametrize("kind", ["cpu", "TPU v99"])
def test_an_unknown_device_has_no_mfu_rather_than_a_wrong_one(now, kind):
    peak = clocks.peak_flops(kind, 4)
    assert peak is None
    clock = Clock(tokens_per_step=1, flops_per_token=1.0, peak=peak, now=now)
    clock.step()
    run(clock, now, 1, 1.0)
    assert "mfu" not in clock.progress(1) and clock.progress(1)["flop_per_s"] == 1.0 and np.isfinite(clock.progress(1)["seconds_left"])
