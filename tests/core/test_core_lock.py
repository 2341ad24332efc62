"""One run at a time in a folder: whoever lives is respected, on this machine or another, and whoever is dead is not waited for."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from decoder_lab.core import lock
from decoder_lab.core.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
HOLDER = """
import sys, time
from decoder_lab.core import lock
with lock.RunLock(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def said():
    return []


def elsewhere(folder, count=0, **changes):
    """Writes the lock of a process on another machine."""
    about = {
        "id": "theirs",
        "pid": 7,
        "host": "far",
        "boot": "b",
        "namespace": "n",
        "started": "1",
        "job": None,
        "since": "then",
        **changes,
    }
    (folder / lock.LOCK).write_text(f"{count:0{lock.COUNT_WIDTH}d}\n{json.dumps(about)}\n")


def test_a_second_run_in_a_workdir_is_refused_with_the_first_ones_name(tmp_path, said):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=rf"process {process.pid} on .*another --workdir.*rm {tmp_path}"), lock.RunLock(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate()
    with lock.RunLock(tmp_path, said.append):  # one that was killed holds nothing
        with pytest.raises(UserError, match=str(os.getpid())), lock.RunLock(tmp_path):
            pass
    assert len(said) == 1 and f"process {process.pid}" in said[0] and "that process is over" in said[0]
    assert not list(tmp_path.iterdir())
    with lock.RunLock(tmp_path / "new" / "workdir", said.append):
        pass
    assert len(said) == 1


def test_a_holder_on_another_machine_counts_as_long_as_it_renews(tmp_path, said):
    """No clock is compared: the times that stand in the lock are of another age."""
    elsewhere(tmp_path)
    threading.Timer(0.3, elsewhere, (tmp_path, 1)).start()
    with pytest.raises(UserError, match="process 7 on far, since then"), lock.RunLock(tmp_path, said.append, silent=5):
        pass
    began = time.monotonic()
    with lock.RunLock(tmp_path, said.append, silent=0.5):
        assert time.monotonic() - began >= 0.5
    assert "process 7 on far, since then: it gave no sign of life" in said[-1]


def test_a_later_attempt_of_the_same_job_does_not_wait(tmp_path, said, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    elsewhere(tmp_path, job="slurm 12#0")
    with lock.RunLock(tmp_path, said.append, silent=100):
        assert "attempt 0 of the job slurm 12, this is attempt 1" in said[0]
    elsewhere(tmp_path, job="slurm 12#1")  # the same attempt twice: another step of the job, which may live
    with lock.RunLock(tmp_path, said.append, silent=0.2):
        assert "no sign of life" in said[-1]


def test_the_holder_renews_its_lock_and_works_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", refuse)
    with lock.RunLock(tmp_path, beat=0.02):
        first = (tmp_path / lock.LOCK).read_text()
        deadline = time.monotonic() + 5
        while (now := (tmp_path / lock.LOCK).read_text()) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert now.split("\n")[1] == first.split("\n")[1] and int(now.split("\n")[0]) > int(first.split("\n")[0])
        with pytest.raises(UserError, match="in use"), lock.RunLock(tmp_path):
            pass


WATCHED = """
import sys, time
from decoder_lab.core import lock
with lock.RunLock(sys.argv[1], beat=0.1):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_holder_whose_lock_was_taken_ends(tmp_path):
    """It slept so long that it was taken for dead; two must not write into one folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    elsewhere(tmp_path)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2 and "taken over by process 7 on far" in err


def test_a_file_that_is_no_lock_is_not_believed_for_long(tmp_path, said, monkeypatch):
    monkeypatch.setattr(lock, "UNREADABLE_SECONDS", 0.2)
    (tmp_path / lock.LOCK).write_text("process 12 on host, since 2026\n")
    with lock.RunLock(tmp_path, said.append):
        assert "an unknown host" in said[-1]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--workdir: .*file.*cannot be made"), lock.RunLock(tmp_path / "file" / "run"):
        pass


def test_one_error_of_the_file_server_does_not_end_the_renewing(tmp_path, monkeypatch):
    """A holder that no longer renews would be taken for dead, and would never see it."""
    failed, write = threading.Event(), os.pwrite

    def stale(*arguments):
        if failed.is_set():
            return write(*arguments)
        failed.set()
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(lock.os, "pwrite", stale)
    with lock.RunLock(tmp_path, beat=0.02):
        assert failed.wait(5)
        first = (tmp_path / lock.LOCK).read_text()
        deadline = time.monotonic() + 5
        while (now := (tmp_path / lock.LOCK).read_text()) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert now != first


def test_an_earlier_attempt_takes_nothing_from_a_later_one(tmp_path, said, monkeypatch):
    monkeypatch.setenv(lock.JOB_VARIABLE, "run#2.77")
    for theirs in ("3.1", "2.76", "last"):
        elsewhere(tmp_path, job=f"run#{theirs}")
        with lock.RunLock(tmp_path, said.append, silent=0.1):
            assert "no sign of life" in said[-1], theirs
    elsewhere(tmp_path, job="run#1.99")
    with lock.RunLock(tmp_path, said.append, silent=100):
        assert "attempt 1.99 of the job run" in said[-1]
