"""A run of many processes: its start and its end, and what all of them do together.

With one process nothing is started, and everything here returns at once. `parallel/places.py` says who is who.
JAX is imported only by `start`. Two ports are fixed on process 0's machine: the address's for `parallel/meeting.py`, the next for JAX.
"""

import hashlib
import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from decoder_lab.core.errors import UserError
from decoder_lab.core.runtime import EXIT_RESUMABLE
from decoder_lab.parallel.meeting import SILENT_SECONDS, Absent, Meeting, exit_now
from decoder_lab.parallel.places import Place

HEARTBEAT_SECONDS = 100  # JAX's own: what notices a dead machine if the meeting does not
PATIENCE_SECONDS = 1800.0
SETTLE_SECONDS = 2.0

_meeting: Meeting | None = None


# --- start and end ---


def start(place: Place | None, patience: float = PATIENCE_SECONDS, report: Callable[[str], None] = print) -> None:
    """Meets the other processes and starts JAX with them; before JAX is used, and once. None: a run of one process.

    Errors: UserError for settings that contradict each other. A process that does not come ends this one with exit code 75.
    """
    global _meeting
    if place is None:
        return
    try:
        _meeting = Meeting(place.address, place.index, place.count, patience, report, _other_ended)
    except Absent as absent:
        exit_now(EXIT_RESUMABLE, f"error: {absent}")
    agree("versions", {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "orbax-checkpoint")})
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        os.environ.setdefault("NPROC", str(max(16, 2 * (os.cpu_count() or 1))))  # fewer threads deadlock collectives on jax 0.10 and 0.11
    import jax

    host, port = place.address.rpartition(":")[::2]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `runtime.StopSignals`
    jax.distributed.initialize(
        coordinator_address=f"{host}:{int(port) + 1}",
        num_processes=place.count,
        process_id=place.index,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(min(patience, 600)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=60,
    )
    hosts = len(set(_meeting.hosts))
    if first():
        report(f"{place.count} processes on {hosts} machine{'s' if hosts > 1 else ''}, process 0 on {_meeting.hosts[0]}")


def _other_ended(code: int | None, text: str) -> None:
    """What another process's error ends with, this one ends with; one that died leaves a run that may go on from its last checkpoint."""
    hint = ". The same command goes on from the last checkpoint." if code is None else ""
    exit_now(EXIT_RESUMABLE if code is None else code, f"process {index()} ends: {text}{hint}")


def leave(code: int, text: str = "") -> None:
    """Ends a process of several: well together with the others, or, having told them why, at once. Does nothing in a run of one."""
    global _meeting
    if _meeting is None:
        return
    if code in (0, EXIT_RESUMABLE) and sys.exc_info()[1] is None and not text:
        _meeting.close()
        _meeting = None
        return
    if error := sys.exc_info()[1]:
        time.sleep(_settle_seconds(error))  # it may be the echo of another's death: that is told meanwhile, and ends this process
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
    _meeting.end(code, text.strip().rstrip("."))
    exit_now(code, "")


def _settle_seconds(error: BaseException) -> float:
    """Returns how long news may take that explain an error: of a machine that vanished collectives may know before the meeting does."""
    jax = sys.modules.get("jax")
    of_device = jax is not None and isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error)
    return SETTLE_SECONDS + (SILENT_SECONDS if of_device else 0.0)


def give_up(text: str) -> None:
    """Ends a process that cannot go on with the others, and with it these; the run may go on from its last checkpoint."""
    if _meeting is not None:
        _meeting.end(EXIT_RESUMABLE, text.partition("\n")[0])
    exit_now(EXIT_RESUMABLE, f"error: {text.rstrip()}\nThe same command goes on from the last checkpoint.")


def index() -> int:
    """Returns the number of this process, from 0."""
    return 0 if _meeting is None else _meeting.index


def count() -> int:
    """Returns how many processes the run has."""
    return 1 if _meeting is None else _meeting.count


def first() -> bool:
    """Whether this is process 0, which alone writes logs, config, pictures and texts."""
    return index() == 0


def host(number: int) -> str:
    """Returns the name of a process's machine."""
    return "this machine" if _meeting is None else _meeting.hosts[number]


# --- together ---


def gather(name: str, value: Any) -> list[Any]:
    """Returns what each process contributed under this name, JSON, by index; waits until all have."""
    return [value] if _meeting is None else _meeting.gather(name, value)


def share(name: str, value: Any) -> Any:
    """Returns process 0's value."""
    return gather(name, value if first() else None)[0]


def common(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Returns process 0's numbers, whatever rounding made of them elsewhere: what is decided by them is decided alike."""
    if _meeting is None:
        return values
    return share(name, {key: value.item() if hasattr(value, "item") else value for key, value in values.items()})


def agree(what: str, value: Any) -> None:
    """Errors: UserError naming the processes whose value is not that of process 0."""
    values = gather(f"agree {what}", value if len(text := json.dumps(value)) < 2000 else hashlib.sha256(text.encode()).hexdigest())
    wrong = [i for i, other in enumerate(values) if other != values[0]]
    if wrong:
        differing = ", ".join(f"process {i} on {host(i)}: {values[i]}" for i in wrong[:3])
        more = f", and {len(wrong) - 3} more processes" if len(wrong) > 3 else ""
        raise UserError(
            f"the processes do not have the same {what}: process 0 on {host(0)}: {values[0]}; {differing}{more}. "
            "Give all of them the same code, packages, flags and data."
        )


def silent(line: str) -> None:
    """Says nothing: what process 0 says, the others need not repeat."""


def news(report: Callable[[str], None] = print) -> Callable[[str], None]:
    """Returns what takes lines for the user: `report` in process 0, nothing in others."""
    return report if first() else silent
