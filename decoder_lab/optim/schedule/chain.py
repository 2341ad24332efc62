"""Several schedules one after the other, each over its own stretch of the run.

schedule = dict(name="chain", kw=dict(
    order=("rise", "hold", "cool"), durations=("5%", "75%"),
    parts=dict(rise=dict(name="linear", kw=dict(start=0.0, end=1.0)), hold=dict(name="constant"), cool=dict(name="cosine"))))
"""

from collections.abc import Callable

import jax.numpy as jnp

from decoder_lab.core import durations as durations_lib
from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Duration, Plugin
from decoder_lab.optim.warmup import Schedule, warm


def schedule(
    *,
    peak: float,
    total_steps: int,
    steps: Callable[[str], int],
    parts: dict[str, Plugin["schedule"]] = {},  # noqa: B006 - never changed; read as a default from the source
    order: tuple[str, ...] = (),
    durations: tuple[Duration, ...] = (),
) -> Schedule:
    """Runs `parts` in `order`; each lasts its entry of `durations`, the last one takes the rest of the run.

    Every part has the config's lr as its peak, starts at its own step 0 and ends at its own length; percents inside it are of that
    length. `order` is said apart because the entries of a config have no order of their own.
    """
    wrong = problems(dict(parts=parts, order=order, durations=durations))
    if wrong:
        raise UserError("schedule chain: " + " ".join(wrong))
    lengths = [steps(duration) for duration in durations]
    lengths.append(total_steps - sum(lengths))
    if min(lengths) < 0 or (lengths[-1] == 0 and total_steps > 0):
        taken = ", ".join(durations)
        raise UserError(f"schedule chain: the durations {taken} leave nothing of total_steps = {total_steps} to the last part.")
    begins = [sum(lengths[:i]) for i in range(len(lengths))]
    pieces = [_part(parts[name], peak, length, steps) for name, length in zip(order, lengths, strict=True)]

    def after(u):
        value = pieces[0](u)
        for begin, piece in zip(begins[1:], pieces[1:], strict=True):
            value = jnp.where(u < begin, value, piece(jnp.maximum(u - begin, 0)))
        return value

    return warm(after, peak=peak, total_steps=total_steps, warmup=0)


def problems(kw) -> list[str]:
    """Order and durations must agree with the parts."""
    if not kw["parts"] or sorted(kw["order"]) != sorted(kw["parts"]):
        return [f"order: got {list(kw['order'])}, expected each part once: {sorted(kw['parts'])}."]
    if len(kw["durations"]) != len(kw["order"]) - 1:
        return [f"durations: got {len(kw['durations'])}, expected {len(kw['order']) - 1}: one for each part but the last."]
    return []


def _part(plugin, peak: float, length: int, steps: Callable[[str], int]) -> Schedule:
    def within(duration: str) -> int:
        number, unit = durations_lib.parse(duration)
        return (max(1, round(number * length / 100)) if number > 0 else 0) if unit == "%" else steps(duration)

    return lookup.make("schedule", plugin, peak=peak, total_steps=length, steps=within)
