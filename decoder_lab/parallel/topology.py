"""Devices by name that are not attached: "v5e:16x16" is compiled for by libtpu, "h100x8" is stood in for by as many virtual CPU devices."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from decoder_lab.core import chips
from decoder_lab.core.errors import UserError, nearest

TPUS = {"v4": "TPU v4", "v5e": "TPU v5e", "v5p": "TPU v5", "v6e": "TPU v6e"}
GPUS = {"a100": "A100", "h100": "H100", "h200": "H200", "b200": "B200", "l4": "L4", "l40s": "L40S"}
QUIET = dict(TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE="v5litepod-16", TPU_WORKER_HOSTNAMES="localhost", ALLOW_MULTIPLE_LIBTPU_LOAD="1")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to plan for.

    Attributes:
      text: as it was written.
      chip: what one of them can do.
      count: of devices, over all slices.
      slices: groups with fast links inside.
      shape: "16x16", of one slice of TPUs; "" for GPUs, which are stood in for.
    """

    text: str
    chip: chips.Chip
    count: int
    slices: int
    shape: str

    @property
    def is_exact(self) -> bool:
        """Whether the program is compiled for the devices themselves."""
        return bool(self.shape)

    @property
    def platform(self) -> str:
        return "tpu" if self.shape else "gpu"


def parse(text: str) -> Topology:
    """Returns what "v5e:16x16", "v5p:4x4x8*2" (two slices) or "h100x8" names. Errors: UserError with the nearest name and the forms."""
    match = re.fullmatch(r"([a-z0-9]+?)(?::(\d+(?:x\d+)+)(?:\*(\d+))?|x(\d+))", text.strip().lower())
    forms = f"expected TPUs as v5e:16x16 or v5p:4x4x8*2 for two slices ({', '.join(TPUS)}), GPUs as h100x8 ({', '.join(GPUS)})"
    if not match:
        raise UserError(f'--topology: got "{text}", {forms}.')
    kind, shape, slices, count = match.groups()
    table = GPUS if count else TPUS
    if kind not in table:
        raise UserError(f'--topology: "{kind}" is not known.{nearest(kind, table)} {forms.capitalize()}.')
    number, groups = int(count) if count else math.prod(map(int, shape.split("x"))), int(slices or 1)
    if not number or not groups:
        raise UserError(f'--topology: got "{text}", which has no device.')
    return Topology(text, chips.find(table[kind]), number * groups, groups, shape or "")


def prepare(topology: Topology) -> None:
    """Sets the environment for `devices`; call it before JAX starts."""
    if topology.is_exact:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
    else:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={topology.count}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"


def devices(topology: Topology) -> list[Any]:
    """Returns devices that can be compiled for, not computed with. Errors: UserError where libtpu lacks or has no such topology."""
    import jax

    if not topology.is_exact:
        if len(jax.devices()) < topology.count:
            raise UserError(
                f"--topology: JAX has started with {len(jax.devices())} devices, and {topology.text} stands for {topology.count}."
            )
        return jax.devices()[: topology.count]
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            '--topology: TPUs are compiled for by libtpu, which is not installed: pip install "decoder_lab[tpu]" (no TPU needed).'
        )
    from jax.experimental import topologies

    jax.config.update("jax_enable_compilation_cache", False)  # what is kept there can only be read where there are such devices
    kind, more = topology.text.partition(":")[0], {"num_slices": topology.slices} if topology.slices > 1 else {}
    if kind == "v4":
        more["chip_config_name"] = "megacore"  # both cores of a chip are one device
    with _without_its_log():
        try:
            found = topologies.get_topology_desc(f"{kind}:{topology.shape}", "tpu", **more).devices
        except (RuntimeError, ValueError) as error:
            raise UserError(f"--topology: libtpu has no {topology.text}: {str(error).splitlines()[0]}") from error
    if len(found) != topology.count:
        raise UserError(f"--topology: {topology.text} has {len(found)} devices for JAX, not {topology.count}.")
    return list(found)


@dataclasses.dataclass(frozen=True)
class Target:
    """What a program is planned for.

    Attributes:
      devices: as JAX has them.
      platform: "cpu", "gpu" or "tpu".
      chip: what one can do; None: not known.
      memory: bytes of one; None: not known.
      is_exact: False where other devices stand in for them.
    """

    devices: list[Any]
    platform: str
    chip: chips.Chip | None
    memory: float | None
    is_exact: bool = True


def target(topology: Topology | None) -> Target:
    """Returns the devices of a topology, or without one those of this machine."""
    import jax

    if topology:
        return Target(devices(topology), topology.platform, topology.chip, topology.chip.memory, topology.is_exact)
    here = jax.devices()
    chip, memory = chips.find(here[0].device_kind), (here[0].memory_stats() or {}).get("bytes_limit")
    if memory is None and here[0].platform == "cpu" and hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(here)
    return Target(here, here[0].platform, chip, memory or (chip.memory if chip else None))


@contextlib.contextmanager
def _without_its_log() -> Iterator[None]:
    """libtpu writes to the process's standard error about a machine that it does not find; inside, that goes nowhere."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
