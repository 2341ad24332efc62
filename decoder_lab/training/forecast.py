"""What a plan says: the figures of one step on its devices, and how they read."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from decoder_lab.core import chips

TRAFFIC = {"all-gather": 1.0, "all-reduce": 2.0, "reduce-scatter": 1.0, "all-to-all": 1.0, "collective-permute": 1.0}  # rings: bytes sent
PASSES = {"bfloat16": 1, "float16": 1, "float32": 6}  # products in bfloat16 that one takes on a TPU at full precision


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step of a run takes. Bytes are those of one device, the others of all.

    Attributes:
      mesh: in words.
      devices: how many.
      chip: what one can do; None where that is not known.
      parts: bytes of {"parameters", "optimizer", "average", "frozen", "batch"} that lie there between steps.
      temporaries: bytes on top within a step: gradients, activations, and what is gathered. None where the compiler gave up.
      needed: bytes in all; where the compiler gave up, as it says.
      capacity: bytes that there are; None: not known.
      flops: of the model, without what is computed twice; 0: the model does not say.
      computed: with what is computed twice, as far as it is products with weights; less than `flops` where that cannot be seen.
      collectives: {kind: (how often, bytes in all)}.
      tokens, total_steps: of a step, and of the run.
      seconds: that compiling took.
      numerics: dtype of the matrix products.
      read: bytes of {"weights", "cache"} that one device reads for every token of one text that it writes; {}: it writes none, or that
        is not known. The cache is that of a text of the rows' length.
      length: of the rows.
    """

    mesh: str
    devices: int
    chip: chips.Chip | None
    parts: Mapping[str, int]
    temporaries: int | None
    needed: int
    capacity: float | None
    flops: float
    collectives: Mapping[str, tuple[int, int]]
    tokens: float
    total_steps: int
    seconds: float
    numerics: str
    computed: float = 0.0
    read: Mapping[str, int] = dataclasses.field(default_factory=dict)
    length: int = 0

    @property
    def fits(self) -> bool:
        return self.temporaries is not None and (self.capacity is None or self.needed <= self.capacity)

    @property
    def times(self) -> dict[str, float]:
        """Seconds a step if nothing but {"compute", "memory", "network"} took time; {} where the devices are not known."""
        if self.chip is None or self.temporaries is None:
            return {}
        moved = 2 * sum(self.parts.values()) + 2 * self.temporaries  # everything is read and written once: the least
        sent = sum(TRAFFIC[kind] * size for kind, (_, size) in self.collectives.items())
        return {
            "compute": max(self.computed, self.flops) * PASSES[self.numerics] / (self.chip.flops * self.devices),
            "memory": moved / self.chip.bandwidth if self.chip.bandwidth else 0.0,
            "network": sent / self.chip.link if self.chip.link else 0.0,
        }

    @property
    def seconds_a_step(self) -> tuple[float, float]:
        """(all of it at once, one after the other); (0, 0) where the devices are not known."""
        return max(self.times.values(), default=0.0), sum(self.times.values())

    def record(self, path: pathlib.Path, more: Mapping[str, Any]) -> None:
        """Writes it as JSON."""
        found = dataclasses.asdict(self) | {"chip": self.chip and self.chip.name, "fits": self.fits, "times": self.times, **more}
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def size(num_bytes: float) -> str:
    """Returns bytes for reading."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:.1f} MiB"


def lines(plan: Plan, title: str) -> list[str]:
    """Returns a plan for reading."""
    held = ", ".join(f"{name} {size(number)}" for name, number in plan.parts.items())
    found = [title, f"  mesh         {plan.mesh} ({plan.devices} devices)", f"  held         {held}"]
    if plan.temporaries is not None:
        found.append(f"  in a step    {size(plan.temporaries)} for gradients, activations and what is gathered")
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    if plan.capacity is not None:
        spare = plan.capacity - plan.needed
        verdict += f": {size(plan.needed)} of {size(plan.capacity)} a device, {size(abs(spare))} {'to spare' if spare >= 0 else 'too much'}"
    else:
        verdict += f": {size(plan.needed)} a device; how much there is, is not known"
    found.append(f"  memory       {verdict}")
    if plan.flops:
        again = plan.computed / plan.flops - 1
        twice = f", and {again:.0%} more for what is computed again" if again >= 0.005 else ""
        found.append(f"  FLOPs        {plan.flops:.4g} a step of {plan.tokens:,.0f} tokens{twice}")
    kinds = ", ".join(f"{count:,} x {kind} ({size(number)})" for kind, (count, number) in sorted(plan.collectives.items()))
    found.append(f"  collectives  {kinds or 'none'}")
    found += [*_speed(plan), *_writing(plan)]
    return [*found, f"  compiled in  {plan.seconds:.0f} s"]


def _speed(plan: Plan) -> list[str]:
    """Returns what the yardstick of the chip makes of a plan."""
    if not plan.times or not plan.flops:
        return []
    parts = ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in plan.times.items())
    fast, slow = plan.seconds_a_step
    ideal = plan.flops / (plan.chip.flops * plan.devices)
    hours = [plan.total_steps * seconds / 3600 for seconds in (fast, slow)]
    return [
        f"  roofline     {parts}; a step takes at least {fast * 1e3:.3g} ms (all at once) to {slow * 1e3:.3g} ms (one after the other)",
        f"  at most      MFU {ideal / slow:.0%} to {ideal / fast:.0%}, {plan.tokens / slow:,.0f} to {plan.tokens / fast:,.0f} tokens/s",
        f"  whole run    {plan.total_steps:,} steps: {hours[0] / 24:.3g} to {hours[1] / 24:.3g} days, "
        f"{hours[0] * plan.devices:,.0f} to {hours[1] * plan.devices:,.0f} device-hours",
    ]


def _writing(plan: Plan) -> list[str]:
    """Returns how fast one text could be written if nothing but reading took time."""
    if not plan.read or plan.chip is None or not plan.chip.bandwidth:
        return []
    parts = " and ".join(f"{size(number)} of {name}" for name, number in plan.read.items())
    most = plan.chip.bandwidth / sum(plan.read.values())
    return [f"  writing      one text of {plan.length:,} tokens on one device reads {parts} a token: at most {most:,.0f} tokens/s"]
