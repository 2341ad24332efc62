"""Places to run in on this machine: each with devices, or a share of the cores, of its own."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from decoder_lab.core.errors import UserError

QUERY_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Slot:
    """A number, what it has for people to read, and what the environment of its runs has beside this process's.

    Attributes:
      devices: what is its own, by names that no other device has, so that another process can be told: GPU-8f3c...
    """

    number: int
    has: str
    environment: Mapping[str, str]
    devices: tuple[str, ...] = ()


def here(num: int, gpus_per_run: int) -> list[Slot]:
    """Returns the slots of this machine."""
    gpus = visible_gpus(os.environ)
    return plan(num, gpus, cores(), os.environ, gpus_per_run, dict(enumerate(identities())) if gpus else {})


def plan(
    num: int,
    gpus: Sequence[str],
    cores: int,
    environment: Mapping[str, str],
    gpus_per_run: int = 0,
    identities: Mapping[int, str] = MappingProxyType({}),
) -> list[Slot]:
    """Returns the slots of a machine. Pure.

    Args:
      num: how many; 0: one for each `gpus_per_run` GPUs, or one for the whole machine where it has none.
      gpus: names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES.
      environment: this process's: threads that the user chose stay chosen.
      gpus_per_run: 0: one, or with `num` all GPUs shared out evenly.
      identities: {number of a GPU: the name that no other has}; of those that it lacks, other processes cannot be told.
    Errors: UserError for slots without a GPU of their own on a machine that has some.
    """
    if num < 0 or gpus_per_run < 0:
        raise UserError(f"--slots, --gpus_per_run: got {num}, {gpus_per_run}, expected 0 or more.")
    if not gpus:
        if gpus_per_run:
            raise UserError("--gpus_per_run: there is no GPU here (nvidia-smi lists none, or JAX_PLATFORMS says cpu).")
        threads = max(1, cores // max(num, 1))
        return [Slot(i, f"{threads} thread{'s' if threads > 1 else ''}", _threads(threads, num, environment)) for i in range(max(num, 1))]
    num = num or len(gpus) // (gpus_per_run or 1)
    each = gpus_per_run or len(gpus) // max(num, 1)
    if num < 1 or each < 1 or num * each > len(gpus):
        raise UserError(f"--slots: {num} slots of {max(each, 1)} GPUs each are more than the {len(gpus)} GPUs here; take fewer of either.")
    made = []
    for i in range(num):
        own = gpus[i * each : (i + 1) * each]
        devices = [identities.get(int(gpu)) if gpu.isdecimal() else _whole(gpu, identities) for gpu in own]
        share = ",".join(own)
        made.append(Slot(i, f"GPU {share}", {"CUDA_VISIBLE_DEVICES": share}, tuple(device for device in devices if device)))
    return made


def _whole(name: str, identities: Mapping[int, str]) -> str:
    """Returns the whole of a name that CUDA_VISIBLE_DEVICES may shorten."""
    return next((identity for identity in identities.values() if identity.startswith(name)), name)


def _threads(threads: int, num: int, environment: Mapping[str, str]) -> dict[str, str]:
    """XLA's CPU backend and the BLAS libraries take a thread a core each, in every run, unless they are told.

    One slot is left as it is, and so are virtual devices, which deadlock where they have fewer threads than they want.
    """
    if num <= 1 or "xla_force_host_platform_device_count" in environment.get("XLA_FLAGS", ""):
        return {}
    wanted = dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {name: value for name, value in wanted.items() if name not in environment}


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Returns the GPUs that runs may use: those of CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists; none where JAX_PLATFORMS is cpu."""
    if environment.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name.strip() for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(len(identities()))]


def identities() -> list[str]:
    """Returns the UUID of each GPU that nvidia-smi lists."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, check=True, timeout=QUERY_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer: as JAX, which then computes on the CPU
        return []
    return [line.rpartition("UUID: ")[2].rstrip(")") for line in listed.splitlines() if line.startswith("GPU ")]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
