"""What all processes of a run know of each other at every step: whether one was asked to stop, and what each of them waits for."""

import signal
from typing import Any

import numpy as np

from decoder_lab.core.clock import Clock
from decoder_lab.core.runtime import StopSignals
from decoder_lab.parallel import processes
from decoder_lab.parallel.board import Board

DATA, DEVICE, TOTAL = range(3)
INPUT_BOUND = 0.05  # of the time; above it the end says what helps
ENOUGH_SECONDS = 30.0  # of training, below which the shares say little
STRAGGLER = 0.1  # of the time, between the process that waited most for the device and the one that waited least


class Company:
    """Exchanges once a step; with several processes what is read is what all of them said one step before.

    Args:
      mesh: of all devices.
      stop: this process's signals.
      clock: this process's time.
    """

    def __init__(self, mesh: Any, stop: StopSignals, clock: Clock):
        self._stop, self._clock = stop, clock
        self._board = Board(mesh, 4)
        self._window = self._run = np.zeros((processes.count(), 3))

    def stopping(self) -> str | None:
        """Exchanges, and returns the name of the signal that some process got, the same in all of them."""
        asked = signal.Signals[self._stop.requested].value if self._stop.requested else 0
        found = self._board.exchange([asked, *self._clock.spent()])
        if found is None:
            return None
        self._window = self._window + found[:, 1:]
        self._run = self._run + found[:, 1:]
        number = int(found[:, 0].max())
        return signal.Signals(number).name if number else None

    def scalars(self) -> dict[str, float]:
        """Returns the shares of the time since the last call: time/data and time/device waited for, time/host worked.

        With several processes means over them, and time/data_most, time/device_least and time/slowest, the number of the process that
        waited least for the device: the others wait for it there.
        """
        shares_P3, self._window = _shares(self._window), np.zeros_like(self._window)
        if shares_P3 is None:
            return {}
        mean = shares_P3.mean(axis=0)
        found = {"time/data": mean[DATA], "time/device": mean[DEVICE], "time/host": mean[TOTAL]}
        if len(shares_P3) > 1:
            found |= {"time/data_most": shares_P3[:, DATA].max(), "time/device_least": shares_P3[:, DEVICE].min()}
            found |= {"time/slowest": int(shares_P3[:, DEVICE].argmin())}
        return {name: float(value) if name != "time/slowest" else value for name, value in found.items()}

    def summary(self) -> str:
        """Returns one line on where the time of the run went, and what would help; "" where there was none."""
        shares_P3 = _shares(self._run)
        if shares_P3 is None:
            return ""
        mean, data_P, device_P = shares_P3.mean(axis=0), shares_P3[:, DATA], shares_P3[:, DEVICE]
        line = f"of the training time {mean[DATA]:.1%} waited for data, {mean[DEVICE]:.1%} for the device"
        if len(data_P) > 1:
            spread = [f"{x_P.min():.1%} to {x_P.max():.1%}" for x_P in (data_P, device_P)]
            line += f" (over {len(data_P)} processes {', '.join(spread)})"
        if self._run[:, TOTAL].max() < ENOUGH_SECONDS:
            return line
        if data_P.max() > INPUT_BOUND:
            where = f", most in process {data_P.argmax()} on {processes.host(int(data_P.argmax()))}" if len(data_P) > 1 else ""
            line += f". The input is too slow{where}: simpler packing, faster disks or fewer processes a machine help"
        elif device_P.max() - device_P.min() > STRAGGLER:
            slow = int(device_P.argmin())
            line += f". The others waited for process {slow} on {processes.host(slow)}: look at that machine"
        return line


def _shares(spent_P3: np.ndarray) -> np.ndarray | None:
    """Returns of each process (for data, for the device, on the host's own work) in parts of its time; None where none has passed."""
    total_P = spent_P3[:, TOTAL]
    if not (total_P > 0).all():
        return None
    waited_P2 = spent_P3[:, :TOTAL] / total_P[:, None]
    return np.column_stack([waited_P2, np.maximum(0.0, 1 - waited_P2.sum(axis=1))])
