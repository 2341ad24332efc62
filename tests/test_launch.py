"""Restart loops that need no human, against schedulers that are made up: what goes on is started again, what is wrong is not."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from decoder_lab.core import lock
from decoder_lab.parallel import places

LAUNCH = pathlib.Path(__file__).resolve().parent.parent / "scripts" / "launch"
QUICK = dict(QUICK="0", PAUSE="0")


@pytest.fixture
def fake(tmp_path):
    """fake(name, body): puts a program of that name first on the PATH; its calls are lines of `calls`."""
    (tmp_path / "bin").mkdir()

    def make(name, body):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {tmp_path}/calls\ncd {tmp_path}\n{body}\n')
        path.chmod(0o755)

    return make


def run(tmp_path, script, *arguments, **environment):
    """Returns (exit code, what it said, calls of the fake programs)."""
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    command = [LAUNCH / script, *arguments]
    done = subprocess.run(
        command, env={**os.environ, **path, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    return done.returncode, done.stdout, calls


NEXT = 'n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n; echo "$DECODER_LAB_JOB" >> jobs; exit "$(sed -n $((n + 1))p codes)"'


def test_again_goes_on_after_what_can_go_on_and_after_nothing_else(tmp_path, fake):
    fake("lab", NEXT)
    (tmp_path / "codes").write_text("75\n137\n134\n0\n")
    code, said, calls = run(tmp_path, "again", "--", "lab", "--workdir=runs/a b", **QUICK)
    assert code == 0 and calls == ["lab --workdir=runs/a b"] * 4, said
    jobs = [job.partition("#") for job in (tmp_path / "jobs").read_text().splitlines()]
    assert len({name for name, _, _ in jobs}) == 1 and len({attempt for *_, attempt in jobs}) == 4  # the lock is taken over at once
    (tmp_path / "n").unlink()
    (tmp_path / "codes").write_text("75\n2\n")
    code, said, calls = run(tmp_path, "again", "lab", **QUICK)
    assert code == 2 and len(calls) == 4 + 2 and "not started again" in said


def test_again_gives_up_on_what_never_gets_anywhere(tmp_path, fake):
    fake("lab", "exit 75")
    code, said, calls = run(tmp_path, "again", "lab", RETRIES="3", PAUSE="0")
    assert code == 75 and len(calls) == 3 and "giving up" in said


def test_again_hands_a_signal_on_and_then_rests(tmp_path, fake):
    fake("lab", "trap 'echo saved; exit 75' TERM; echo ready; while :; do sleep 0.05; done")
    environment = {**os.environ, **QUICK, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    process = subprocess.Popen([LAUNCH / "again", "lab"], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 75 and "saved" in out and "the same command goes on" in out


def test_slurm_queues_again_what_can_go_on(tmp_path, fake):
    fake("scontrol", "")
    environment = dict(SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(tmp_path))
    for status, requeued, code in ((0, False, 0), (75, True, 0), (137, True, 0), (2, False, 2), (1, False, 1)):
        (tmp_path / "calls").unlink(missing_ok=True)
        fake("srun", f"exit {status}")
        found, said, calls = run(tmp_path, "slurm", "--config=c.py", "--workdir=r", **environment)
        assert found == code, said
        assert calls[0].endswith("python -m decoder_lab.main --distributed=slurm --config=c.py --workdir=r")
        assert (calls[1:] == ["scontrol requeue 7"]) == requeued
    found, said, calls = run(tmp_path, "slurm", "--config=c.py", SLURM_RESTART_COUNT="2", MAX_STARTS="3", **environment)
    assert found == 1 and "not queued again" in said
    fake("srun", "exit 75")
    found, said, _ = run(tmp_path, "slurm", "--config=c.py", SLURM_RESTART_COUNT="2", MAX_STARTS="3", **environment)
    assert found == 75 and "giving up" in said
    assert lock.job(dict(SLURM_JOB_ID="7")) != lock.job(dict(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1"))


GCLOUD = r"""
case "$*" in
  *" describe "*) [ -f state ] && cat state || exit 1 ;;
  *" create "*) echo READY > state ;;
  *" delete "*) rm state ;;
  *decoder_lab.main*)
    n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n
    case "$(sed -n $((n + 1))p ends)" in
      lost) echo PREEMPTED > state; exit 255 ;;
      *) for e in $(sed -n $((n + 1))p ends); do echo "SSH: worker ended with $e"; done ;;
    esac ;;
  *) : ;;
esac
"""
POD = ("--name", "p", "--zone", "z", "--type", "v4-16", "--setup", "install it", "--", "--config=c.py", "--workdir=/mnt/it's")


def verbs(calls):
    return [re.match(r"gcloud compute tpus tpu-vm (\w+)", call)[1] for call in calls]


def test_a_tpu_that_is_preempted_is_made_again_and_goes_on(tmp_path, fake):
    fake("gcloud", GCLOUD)
    (tmp_path / "ends").write_text("lost\n75 75\n0 0\n")
    code, said, calls = run(tmp_path, "tpu_pod", *POD, **QUICK)
    assert code == 0, said
    made = ["describe", "create", "ssh", "ssh"]  # set up, run
    assert verbs(calls) == [*made, "describe", "delete", *made[1:], "describe", "ssh", "delete"]
    trained = [call for call in calls if "decoder_lab.main" in call]
    assert all("--worker=all" in call and r"--distributed=tpu --config=c.py --workdir=/mnt/it\'s" in call for call in trained)
    assert [re.search(r"DECODER_LAB_JOB=(\S+)", call)[1].replace("\\", "") for call in trained] == ["p#1", "p#2", "p#3"]
    assert "--spot" in calls[1]


def test_a_shortage_of_tpus_is_waited_for(tmp_path, fake):
    """It is what follows a preemption, and no reason to give up."""
    few = 'echo x >> asked; [ "$(wc -l < asked)" -gt 8 ] && echo READY > state'
    fake("gcloud", GCLOUD.replace("echo READY > state", few))
    (tmp_path / "ends").write_text("0 0\n")
    code, said, calls = run(tmp_path, "tpu_pod", *POD, PAUSE="0", RETRIES="3", MAX_STARTS="4")
    assert code == 0 and verbs(calls).count("create") == 9 and verbs(calls)[-1] == "delete", said


def test_a_tpu_is_not_kept_busy_with_an_error(tmp_path, fake):
    fake("gcloud", GCLOUD)
    (tmp_path / "ends").write_text("2 2\n")
    code, said, calls = run(tmp_path, "tpu_pod", *POD, **QUICK)
    assert code == 2 and verbs(calls)[-1] == "delete" and "not started again" in said
    assert run(tmp_path, "tpu_pod", "--name", "p")[0] == 2


def test_the_jobset_says_who_is_who_and_restarts_what_can_go_on():
    text = (LAUNCH / "jobset.yaml").read_text().replace("RUN", "first").replace("PODS", "4")
    found = yaml.safe_load(text)
    job = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    place = places.find("kubernetes", {**environment, "JOB_COMPLETION_INDEX": "3"})
    assert place == places.Place("first-workers-0-0.first:8476", 3, 4) and job["completions"] == job["parallelism"] == 4
    assert job["completionMode"] == "Indexed" and environment["DECODER_LAB_JOB"] == "first#$(ATTEMPT)"
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2]
    assert found["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"


def test_the_scripts_are_clean():
    shellcheck = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    scripts = [str(LAUNCH / name) for name in ("again", "slurm", "tpu_pod")]
    done = subprocess.run([shellcheck, "-x", "-P", "SCRIPTDIR", "-s", "bash", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
