"""How fast a run is: steps and tokens a second, model FLOPs utilisation (MFU), time left. Only training counts, no compiling or evaluating.

And where its time goes: a step waits for data, waits for the device, or the host works; beside steps it compiles, evaluates and saves.

MFU is the FLOPs that the model needs (no recomputation) over those that the devices could do. Peaks are the makers' dense bf16 figures,
whatever dtype is used; of a device that is not in the table, such as a CPU, the model's FLOP/s are given instead.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal

from decoder_lab.core import chips


def peak_flops(device_kind: str, num_devices: int) -> float | None:
    """Returns the FLOP/s of all devices together by their data sheet, None for a device that is not in the table."""
    chip = chips.find(device_kind)
    return chip and chip.flops * num_devices


class Clock:
    """Counts steps against the time that they took.

    The first `step()` only starts the clock: it ends with the first step, which is the one that compiles. A later step during which a new
    shape of batches was compiled is not counted: the device worked on behind the pause, so how long it took is not known.

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
        self._uncounted = 0.0  # seconds of training, in steps that are not counted
        self._ended = 0.0  # training seconds at the end of the last step
        self._compiling = False  # something was compiled since
        self._compiled_seconds = 0.0  # since the clock began: no part of what is to come
        self._mark: tuple[int, float] = (0, 0.0)  # steps and training seconds at the last `scalars`
        self._waited = {"data": 0.0, "device": 0.0}
        self._spent: tuple[float, float, float] = (0.0, 0.0, 0.0)  # at the last `spent`
        self._beside: dict[str, float] = {}  # seconds of pauses since the last `beside`

    def step(self) -> None:
        """Says that one more step is done."""
        if self._began is None:
            self._began, self.paused_seconds, self._compiled_seconds = self._now(), 0.0, 0.0
            self._waited = dict.fromkeys(self._waited, 0.0)
        elif self._compiling:
            self._uncounted += self._training_seconds() - self._ended
        else:
            self._steps += 1
        self._ended, self._compiling = self._training_seconds(), False

    @contextlib.contextmanager
    def pause(self, what: Literal["compile", "evaluate", "save"]) -> Iterator[None]:
        """What happens inside is not training time."""
        began = self._now()
        try:
            yield
        finally:
            seconds = self._now() - began
            self.paused_seconds += seconds
            if what == "compile":
                self._compiled_seconds, self._compiling = self._compiled_seconds + seconds, True
            self._beside[what] = self._beside.get(what, 0.0) + seconds

    def beside(self) -> dict[str, float]:
        """Returns time/compile_seconds, time/evaluate_seconds, time/save_seconds since the last call; without those that did not happen."""
        found, self._beside = self._beside, {}
        return {f"time/{what}_seconds": seconds for what, seconds in found.items()}

    @contextlib.contextmanager
    def waiting(self, what: Literal["data", "device"]) -> Iterator[None]:
        """What happens inside is waiting; what is neither this nor `pause` is the host's own work."""
        began = self._now()
        try:
            yield
        finally:
            self._waited[what] += self._now() - began

    def spent(self) -> tuple[float, float, float]:
        """Returns the seconds (waited for data, waited for the device, of training in all) since the last call; zeros at first."""
        if self._began is None:
            return (0.0, 0.0, 0.0)
        now = (self._waited["data"], self._waited["device"], self._training_seconds())
        since = tuple(max(0.0, a - b) for a, b in zip(now, self._spent, strict=True))
        self._spent = now
        return since

    def share(self, seconds: float) -> str:
        """Returns so many seconds as a part of the run's since its first step: "0.4% of its time"."""
        whole = self._training_seconds() + self.paused_seconds
        return f"{seconds / whole:.1%} of its time" if self._began is not None and whole > 0 else "before its second step"

    def scalars(self) -> dict[str, float]:
        """Returns the speed since the last call: time/steps_per_s, time/tokens_per_s, time/mfu; {} before the second step."""
        steps, seconds = self._steps - self._mark[0], self._counted_seconds() - self._mark[1]
        if steps <= 0 or seconds <= 0:
            return {}
        self._mark = (self._steps, self._counted_seconds())
        return {f"time/{name}": value for name, value in self._speed(steps / seconds).items()}

    def progress(self, steps_left: int) -> dict[str, float]:
        """Returns the speed over the whole run, and the seconds left with evaluations and checkpoints; {} before the second step."""
        seconds = self._counted_seconds()
        if self._steps <= 0 or seconds <= 0:
            return {}
        speed = self._speed(self._steps / seconds)
        del speed["steps_per_s"]
        left = {"seconds_left": steps_left * (seconds + self.paused_seconds - self._compiled_seconds) / self._steps}
        return left | speed  # in the order of interest: a narrow terminal cuts the end

    def _training_seconds(self) -> float:
        return 0.0 if self._began is None else self._now() - self._began - self.paused_seconds

    def _counted_seconds(self) -> float:
        return self._training_seconds() - self._uncounted

    def _speed(self, steps_per_s: float) -> dict[str, float]:
        tokens_per_s = steps_per_s * self.tokens_per_step
        speed = {"steps_per_s": steps_per_s, "tokens_per_s": tokens_per_s}
        if self.flops_per_token and self.peak:
            speed["mfu"] = tokens_per_s * self.flops_per_token / self.peak
        elif self.flops_per_token:
            speed["flop_per_s"] = tokens_per_s * self.flops_per_token
        return speed
