"""How fast a run is: steps and tokens a second, model FLOPs utilisation (MFU), time left. Only training counts, no compiling or evaluating.

MFU is the FLOPs that the model needs (no recomputation) over those that the devices could do. Peaks are the makers' dense bf16 figures,
whatever dtype is used; of a device that is not in the table, such as a CPU, the model's FLOP/s are given instead.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

# part of jax's device_kind -> dense bf16 FLOP/s of one such device, from NVIDIA's and Google's data sheets. The first match counts.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200": 989.4e12,
    "GH200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "H800": 989.4e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


def peak_flops(device_kind: str, num_devices: int) -> float | None:
    """Returns the FLOP/s of all devices together by their data sheet, None for a device that is not in the table."""
    for part, flops in PEAK_FLOPS.items():
        if part.lower() in device_kind.lower():
            return flops * num_devices
    return None


class Clock:
    """Counts steps against the time that they took.

    The first `step()` only starts the clock: it ends with the first step, which is the one that compiles.

    Args:
      tokens_per_step: of all devices.
      flops_per_token: forward and backward, analytic; None: neither MFU nor FLOP/s.
      peak: FLOP/s of all devices (see `peak_flops`); None: the model's FLOP/s are given instead of MFU.
      now: seconds, for tests.
    """

    def __init__(
        self,
        tokens_per_step: float,
        flops_per_token: float | None = None,
        peak: float | None = None,
        now: Callable[[], float] = time.perf_counter,
    ):
        self.tokens_per_step, self.flops_per_token, self.peak, self._now = tokens_per_step, flops_per_token, peak, now
        self.paused_seconds = 0.0  # since the clock began, spent in `pause`
        self._began: float | None = None
        self._steps = 0
        self._mark: tuple[int, float] = (0, 0.0)  # steps and training seconds at the last `scalars`

    def step(self) -> None:
        """Says that one more step is done."""
        if self._began is None:
            self._began, self.paused_seconds = self._now(), 0.0
        else:
            self._steps += 1

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside (an evaluation, a checkpoint) is not training time."""
        began = self._now()
        try:
            yield
        finally:
            self.paused_seconds += self._now() - began

    def scalars(self) -> dict[str, float]:
        """Returns the speed since the last call: time/steps_per_s, time/tokens_per_s, time/mfu; {} before the second step."""
        steps, seconds = self._steps - self._mark[0], self._training_seconds() - self._mark[1]
        if steps <= 0 or seconds <= 0:
            return {}
        self._mark = (self._steps, self._training_seconds())
        return {f"time/{name}": value for name, value in self._speed(steps / seconds).items()}

    def progress(self, steps_left: int) -> dict[str, float]:
        """Returns the speed over the whole run, and the seconds left with evaluations and checkpoints; {} before the second step."""
        seconds = self._training_seconds()
        if self._steps <= 0 or seconds <= 0:
            return {}
        speed = self._speed(self._steps / seconds)
        del speed["steps_per_s"]
        left = {"seconds_left": steps_left * (seconds + self.paused_seconds) / self._steps}
        return left | speed  # in the order of interest: a narrow terminal cuts the end

    def _training_seconds(self) -> float:
        return 0.0 if self._began is None else self._now() - self._began - self.paused_seconds

    def _speed(self, steps_per_s: float) -> dict[str, float]:
        tokens_per_s = steps_per_s * self.tokens_per_step
        speed = {"steps_per_s": steps_per_s, "tokens_per_s": tokens_per_s}
        if self.flops_per_token and self.peak:
            speed["mfu"] = tokens_per_s * self.flops_per_token / self.peak
        elif self.flops_per_token:
            speed["flop_per_s"] = tokens_per_s * self.flops_per_token
        return speed
