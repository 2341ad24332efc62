"""Where a process stands among those of its run: what --distributed, or the environment made by a launcher, says. Needs no JAX."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import re
from collections.abc import Callable, Mapping

from decoder_lab.core.errors import UserError

SETTING = "auto, off, tpu, slurm, kubernetes, mpi, or HOST:PORT,INDEX,COUNT"
PORTS = 61_440  # of SLURM and MPI: this and the next 4,095, by the job's number
TPU_PORT = 8_476
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands: `address` is "host:port" of process 0; `devices` are those of its machine that are its own (None: all)."""

    address: str
    index: int
    count: int
    devices: tuple[int, ...] | None = None


def find(setting: str, environment: Mapping[str, str] = os.environ) -> Place | None:
    """Returns this process's place by the setting, None for a run of one process.

    "auto" takes what the environment says: JAX_COORDINATOR_ADDRESS, a SLURM step of several tasks, mpirun, or a TPU pod's metadata.
    Errors: UserError that names what is missing or wrong.
    """
    if setting == "off":
        return None
    if setting == "auto":
        return _single(_detected(environment))
    if setting in _KINDS:
        return _single(_KINDS[setting](environment))
    return _single(_plain(setting))


def _single(place: Place | None) -> Place | None:
    return None if place is None or place.count == 1 else place


def _detected(environment: Mapping[str, str]) -> Place | None:
    if any(name in environment for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")):
        if not (_mpi_names(environment) and "JAX_NUM_PROCESSES" not in environment):
            return _kubernetes(environment)
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _slurm(environment)
    if _mpi_names(environment):
        return _mpi(environment)
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    on_tpu = any(pathlib.Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0")) and _installed("libtpu")
    if "," in hosts:
        return _tpu(environment)
    if on_tpu and not hosts and "TPU_SKIP_MDS_QUERY" not in environment:
        return _worker_of_tpu()  # None: such a device may be another, and libtpu is also installed to plan
    return None


def _installed(package: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(package))
    return False


def _plain(setting: str) -> Place:
    match = re.fullmatch(r"(.+:\d+),(\d+),(\d+)", setting)
    if not match:
        raise UserError(f'--distributed: got "{setting}", expected {SETTING} (such as node1:8476,0,2 on the first of two machines).')
    address, index, count = match[1], int(match[2]), int(match[3])
    return _checked(address, index, count, "--distributed")


def _checked(address: str, index: int, count: int, where: str, devices: tuple[int, ...] | None = None) -> Place:
    if count < 1 or not 0 <= index < count:
        raise UserError(f"{where}: got process {index} of {count}; expected an index from 0 to the number of processes less one.")
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(f'{where}: got the address "{address}" of process 0, expected HOST:PORT.')
    return Place(address, index, count, devices)


def _numbers(environment: Mapping[str, str], where: str, **names: tuple[str, ...]) -> dict[str, int]:
    """Returns the first number found for each name. Errors: UserError with all that are missing or no number."""
    found, wrong = {}, []
    for name, variables in names.items():
        text = next((environment[v] for v in variables if v in environment), None)
        if text is None:
            wrong.append(f"{' or '.join(variables)} is not set")
        elif not text.isdecimal():
            wrong.append(f'{" or ".join(variables)} is "{text}", expected a number')
        else:
            found[name] = int(text)
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong)}. Start it through that system, or give --distributed=HOST:PORT,INDEX,COUNT.")
    return found


def _slurm(environment: Mapping[str, str]) -> Place:
    where = "--distributed=slurm"
    found = _numbers(
        environment,
        where + " (use srun)",
        count=("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        index=("SLURM_PROCID",),
        local=("SLURM_LOCALID",),
        job=("SLURM_JOB_ID",),
    )
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or environment.get("SLURM_NODELIST", "")
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)  # node1 | node1,node2 | node[001-004],other
    if not first:
        raise UserError(f"{where}: SLURM_STEP_NODELIST is not set, or names no machine. Use srun.")
    port = environment.get("JAX_COORDINATOR_PORT") or PORTS + found["job"] * 2 % 4096
    nodes_of_step = int(environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES") or 1)
    shared = found["count"] > nodes_of_step  # several tasks a machine: one device each
    devices = _own_devices(environment, found["local"]) if shared else None
    return _checked(f"{first[1]}{first[2] or ''}:{port}", found["index"], found["count"], where, devices)


def _own_devices(environment: Mapping[str, str], local: int) -> tuple[int, ...] | None:
    """Returns the devices of one of several processes of a machine; all that it sees, where it was given but one."""
    return None if VISIBLE in environment and "," not in environment[VISIBLE] else (local,)


def _kubernetes(environment: Mapping[str, str]) -> Place:
    where = "--distributed=kubernetes"
    names = dict(count=("JAX_NUM_PROCESSES",), index=("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"))
    found = _numbers(environment, where, **names)
    if not environment.get("JAX_COORDINATOR_ADDRESS"):
        raise UserError(f"{where}: JAX_COORDINATOR_ADDRESS is not set; it is HOST:PORT of process 0 (scripts/launch/jobset.yaml sets it).")
    return _checked(environment["JAX_COORDINATOR_ADDRESS"], found["index"], found["count"], where)


def _mpi_names(environment: Mapping[str, str]) -> bool:
    return int(environment.get("OMPI_COMM_WORLD_SIZE") or environment.get("PMI_SIZE") or 1) > 1


def _mpi(environment: Mapping[str, str]) -> Place:
    where = "--distributed=mpi"
    found = _numbers(
        environment,
        where,
        count=("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
        index=("OMPI_COMM_WORLD_RANK", "PMI_RANK"),
        local=("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    )
    here = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environment.get("MPI_LOCALNRANKS")
    launcher = re.search(r"^(\d+)\..*?tcp6?://\[?([^,:\]]+|[0-9a-fA-F:]+)", environment.get("OMPI_MCA_orte_hnp_uri", ""))
    if address := environment.get("JAX_COORDINATOR_ADDRESS"):
        pass
    elif here == str(found["count"]):
        address = f"localhost:{PORTS}"
    elif launcher:
        address = f"{launcher[2]}:{PORTS + int(launcher[1]) // 4096 * 2 % 4096}"
    else:
        raise UserError(
            f"{where}: this mpirun does not say where process 0 is: give JAX_COORDINATOR_ADDRESS=HOST:PORT to all "
            "(mpirun -x JAX_COORDINATOR_ADDRESS, or -genv with MPICH)."
        )
    return _checked(address, found["index"], found["count"], where, _own_devices(environment, found["local"]) if here != "1" else None)


def _tpu(environment: Mapping[str, str]) -> Place:
    if place := _worker_of_tpu():
        return place
    raise UserError("--distributed=tpu: this machine is no worker of a TPU (no libtpu, or no metadata). Use --distributed=off, or auto.")


def _worker_of_tpu() -> Place | None:
    """Asks the TPU's metadata, by JAX's own reader of it; None where this machine is no worker of a TPU."""
    from jax._src.clusters import cloud_tpu_cluster

    for kind in (cloud_tpu_cluster.GkeTpuCluster, cloud_tpu_cluster.GceTpuCluster):
        try:
            if kind.is_env_present():
                host = kind.get_coordinator_address(60, str(TPU_PORT)).rpartition(":")[0]
                return _checked(f"{host}:{TPU_PORT}", kind.get_process_id(), kind.get_process_count(), "--distributed=tpu")
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise UserError(f"--distributed=tpu: the metadata of this TPU could not be read: {error}.") from error
    return None


_KINDS: dict[str, Callable[[Mapping[str, str]], Place]] = {"tpu": _tpu, "slurm": _slurm, "kubernetes": _kubernetes, "mpi": _mpi}
