"""Durations become optimiser steps in one place."""

import pytest

from decoder_lab.core import durations
from decoder_lab.core.errors import UserError

CLOCK = durations.Clockwork(total_steps=1000, batch_size=8, sequence_length=16, examples_per_epoch=lambda: 80)


@pytest.mark.parametrize(
    "text, steps",
    [
        ("0", 0),
        ("200", 200),
        ("1 step", 1),
        ("5%", 50),
        ("100%", 1000),
        ("2 epochs", 20),
        ("0.5 epoch", 5),
        ("1e2 examples", 12),
        ("1280 tokens", 10),
    ]
    + [("0.001%", 1), (7, 7)],
)
def test_steps(text, steps):
    assert CLOCK.steps(text) == steps


@pytest.mark.parametrize("text, part", [("3 epocs", 'Did you mean "epochs"'), ("soon", "expected a number"), ("-1", "expected a number")])
def test_errors(text, part):
    with pytest.raises(UserError, match=part):
        CLOCK.steps(text)


def test_due_is_periodic_and_never_misses_the_last_step():
    assert [s for s in range(11) if durations.due(s, 4, 10)] == [0, 4, 8, 10]
    assert not any(durations.due(s, 0, 10) for s in range(11))
