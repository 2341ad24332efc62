"""What processes tell each other every step: the stop of one is that of all, and the one that others wait for is found."""

import types

import numpy as np
import pytest

from decoder_lab.core.clock import Clock
from decoder_lab.training import company as companies
from decoder_lab.training.company import Company


class Time:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def company(monkeypatch):
    """Of three processes, what is exchanged being `company.rows`: (signal, for data, for device, in all)."""
    monkeypatch.setattr(companies.processes, "count", lambda: 3)
    monkeypatch.setattr(companies.processes, "host", lambda number: f"host{number}")
    board = types.SimpleNamespace(exchange=lambda values: made.rows)
    monkeypatch.setattr(companies, "Board", lambda mesh, width: board)
    made = Company(None, types.SimpleNamespace(requested=None), Clock(1))
    made.rows = None
    return made


def test_a_signal_of_one_is_read_by_all(company):
    assert company.stopping() is None  # nothing was exchanged yet
    company.rows = np.array([[0, 0, 1, 1], [15, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    assert company.stopping() == "SIGTERM"


def test_the_input_that_is_too_slow_is_found(company):
    assert company.scalars() == {} and company.summary() == ""
    company.rows = np.array([[0, 1, 90, 100], [0, 60, 31, 100], [0, 2, 88, 100]], np.float32)
    company.stopping()
    scalars = company.scalars()
    assert scalars["time/data"] == pytest.approx(0.21) and scalars["time/data_most"] == pytest.approx(0.6)
    assert scalars["time/device_least"] == pytest.approx(0.31) and scalars["time/slowest"] == 1
    assert scalars["time/data"] + scalars["time/device"] + scalars["time/host"] == pytest.approx(1)
    assert company.scalars() == {}  # a line is about the time since the line before
    assert "21.0% waited for data" in company.summary() and "input is too slow, most in process 1 on host1" in company.summary()


def test_the_process_that_others_wait_for_is_found(company):
    """It is the one that waits least: its device has no time to wait."""
    company.rows = np.array([[0, 0, 95, 100], [0, 0, 94, 100], [0, 0, 40, 100]], np.float32)
    company.stopping()
    assert "waited for process 2 on host2" in company.summary() and "input" not in company.summary()


def test_alone_the_shares_are_those_of_its_own_clock():
    now = Time()
    clock = Clock(1, now=now)
    company = Company(None, types.SimpleNamespace(requested="SIGINT"), clock)
    with clock.waiting("data"):
        now.now += 50.0  # before the first step is done: compiling, no part of the run
    clock.step()
    for _ in range(4):
        with clock.waiting("data"):
            now.now += 1.0
        with clock.waiting("device"):
            now.now += 2.0
        now.now += 1.0
        with clock.pause("evaluate"):
            now.now += 10.0
        clock.step()
    assert company.stopping() == "SIGINT"
    assert company.scalars() == {"time/data": 0.25, "time/device": 0.5, "time/host": 0.25}
    assert company.summary() == "of the training time 25.0% waited for data, 50.0% for the device"
    assert clock.share(8.0) == "14.3% of its time"
