"""Who is who, from the environments that launchers make; and one clear error where something lacks."""

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.parallel import places
from decoder_lab.parallel.places import Place

SLURM = dict(
    SLURM_JOB_ID="5000",
    SLURM_STEP_NUM_TASKS="4",
    SLURM_PROCID="3",
    SLURM_LOCALID="1",
    SLURM_STEP_NODELIST="node[007-008],spare1",
    SLURM_STEP_NUM_NODES="2",
)
OPENMPI = dict(
    OMPI_COMM_WORLD_SIZE="4",
    OMPI_COMM_WORLD_RANK="2",
    OMPI_COMM_WORLD_LOCAL_RANK="0",
    OMPI_COMM_WORLD_LOCAL_SIZE="2",
    OMPI_MCA_orte_hnp_uri="1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
)
MPICH = dict(PMI_SIZE="2", PMI_RANK="1", MPI_LOCALRANKID="1", MPI_LOCALNRANKS="2")
JOBSET = dict(JAX_COORDINATOR_ADDRESS="run-workers-0-0.run:8476", JAX_NUM_PROCESSES="8", JOB_COMPLETION_INDEX="5")


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch):
    monkeypatch.setattr(places, "_installed", lambda package: False)


@pytest.mark.parametrize(
    "setting, environment, expected",
    [
        ("off", SLURM, None),
        ("auto", {}, None),
        ("node1:8476,1,2", {}, Place("node1:8476", 1, 2)),
        ("[::1]:8476,0,3", SLURM, Place("[::1]:8476", 0, 3)),
        ("node1:8476,0,1", {}, None),
        ("auto", SLURM, Place("node007:63248", 3, 4, (1,))),
        ("slurm", SLURM, Place("node007:63248", 3, 4, (1,))),
        ("auto", SLURM | dict(SLURM_STEP_NUM_NODES="4", SLURM_LOCALID="0"), Place("node007:63248", 3, 4)),  # a task a machine: all its GPUs
        ("auto", SLURM | dict(CUDA_VISIBLE_DEVICES="2"), Place("node007:63248", 3, 4)),  # SLURM bound one to each task
        ("auto", SLURM | dict(SLURM_STEP_NODELIST="a1,b2"), Place("a1:63248", 3, 4, (1,))),
        ("auto", SLURM | dict(SLURM_STEP_NUM_TASKS="1"), None),
        ("auto", dict(SLURM_JOB_ID="5000", SLURM_NTASKS="4", SLURM_PROCID="0"), None),  # the batch script itself, not a step
        ("auto", OPENMPI, Place("10.96.0.1:63808", 2, 4, (0,))),
        ("auto", OPENMPI | dict(OMPI_COMM_WORLD_LOCAL_SIZE="4"), Place("localhost:61440", 2, 4, (0,))),
        ("mpi", OPENMPI | dict(JAX_COORDINATOR_ADDRESS="head:9000"), Place("head:9000", 2, 4, (0,))),
        ("auto", OPENMPI | dict(JAX_COORDINATOR_ADDRESS="head:9000"), Place("head:9000", 2, 4, (0,))),
        ("auto", MPICH, Place("localhost:61440", 1, 2, (1,))),
        ("auto", JOBSET, Place("run-workers-0-0.run:8476", 5, 8)),
        ("kubernetes", JOBSET | dict(JAX_PROCESS_ID="7"), Place("run-workers-0-0.run:8476", 7, 8)),
    ],
)
def test_places(setting, environment, expected):
    assert places.find(setting, environment) == expected


@pytest.mark.parametrize(
    "setting, environment, parts",
    [
        ("slrum", {}, ['"slrum"', "auto, off, tpu, slurm"]),
        ("node1,0,2", {}, ["HOST:PORT,INDEX,COUNT"]),
        ("node1:8476,2,2", {}, ["process 2 of 2", "less one"]),
        ("slurm", {}, ["SLURM_PROCID is not set", "SLURM_JOB_ID is not set", "srun"]),
        ("slurm", SLURM | dict(SLURM_STEP_NODELIST=""), ["SLURM_STEP_NODELIST"]),
        ("slurm", SLURM | dict(SLURM_PROCID="x"), ['SLURM_PROCID is "x"']),
        ("auto", dict(JAX_NUM_PROCESSES="8", JOB_COMPLETION_INDEX="5"), ["JAX_COORDINATOR_ADDRESS is not set"]),
        ("auto", dict(JAX_COORDINATOR_ADDRESS="a:1"), ["JAX_NUM_PROCESSES is not set", "JAX_PROCESS_ID or JOB_COMPLETION_INDEX"]),
        ("kubernetes", JOBSET | dict(JAX_COORDINATOR_ADDRESS="nowhere"), ['"nowhere"', "HOST:PORT"]),
        ("mpi", {}, ["OMPI_COMM_WORLD_SIZE or PMI_SIZE is not set"]),
        ("mpi", MPICH | dict(MPI_LOCALNRANKS="1"), ["does not say where process 0 is", "JAX_COORDINATOR_ADDRESS"]),
        ("tpu", {}, ["no worker of a TPU"]),
    ],
)
def test_what_lacks_is_named(setting, environment, parts):
    with pytest.raises(UserError) as error:
        places.find(setting, environment)
    for part in parts:
        assert part in str(error.value), (part, str(error.value))


def test_a_device_that_is_no_tpu_needs_no_setting(monkeypatch):
    """Any device that is handed through looks like a TPU's, and libtpu is installed to plan."""
    monkeypatch.setattr(places, "_installed", lambda package: True)
    monkeypatch.setattr(places.pathlib.Path, "exists", lambda path: str(path) == "/dev/vfio/0")
    assert places.find("auto", {}) is None
