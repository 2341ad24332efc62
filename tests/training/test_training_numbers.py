"""Which checkpoint is the best, by the numbers as they come."""

import contextlib
import types

import pytest

from decoder_lab.core import runtime
from decoder_lab.training.numbers import Numbers


def numbers_of(tmp_path, mode, meta=None):
    checkpoint = types.SimpleNamespace(metric="val/loss", mode=mode)
    config = types.SimpleNamespace(checkpoint=checkpoint, log=types.SimpleNamespace(writers={}, every="1"))
    clock = types.SimpleNamespace(pause=contextlib.nullcontext)
    clockwork = types.SimpleNamespace(total_steps=9, steps=int)
    experiment = types.SimpleNamespace(config=config, clock=lambda: clock, clockwork=clockwork, report=print, mesh=None)
    return Numbers(experiment, tmp_path, 0, meta or {}, runtime.StopSignals())


@pytest.mark.parametrize("mode, improved", [("min", [2, 4]), ("max", [2, 3])])
def test_a_first_value_that_is_no_number_does_not_stay_the_best(tmp_path, mode, improved):
    """Nothing is below NaN, nor above it: a run whose first loss was one had no best checkpoint for ever."""
    numbers, found = numbers_of(tmp_path, mode), []
    for step, value in enumerate((float("nan"), 5.0, 6.0, 4.0, float("nan"), 5.0), start=1):
        numbers.evaluated(step, "val", types.SimpleNamespace(run=lambda state, value=value: {"loss": value}), None)
        found += [step] if numbers.improved(step) else []
    assert found == improved and numbers.best["step"] == improved[-1]
