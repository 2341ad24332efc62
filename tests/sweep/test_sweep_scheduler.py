"""The scheduler with stand-ins for runs: everything is done once, whatever is killed, whoever joins, whatever fails."""

import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import sweep_fakes as fakes

from decoder_lab.core import lock, runtime
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import __main__ as program
from decoder_lab.sweep import branching, declaration, processes, scheduler
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.declaration import Declaration
from decoder_lab.sweep.folder import Folder


def steps_done(folder, name):
    return [int(line) for line in (folder / "runs" / name / "steps").read_text().split()]


def table(folder):
    """The table of the arms, without times."""
    rows = list(csv.reader((folder / "table.csv").read_text().splitlines()))
    return [row[:-1] for row in rows]


def begin(*arguments, seconds):
    """A sweep of fake runs as a process of its own."""
    command = [sys.executable, fakes.__file__, str(seconds), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def test_every_run_is_done_once_and_a_second_start_repeats_nothing(tmp_path, capsys):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "sweep"
    flags = [f"--config={spec}", "--grid", "lr=0.1,0.2,0.3", "--seeds=2", f"--workdir={folder}", "--slots=2"]
    assert fakes.sweep(*flags) == 0
    first = capsys.readouterr().out
    records = Folder(folder).records()
    assert len(records) == 6 and {r.status for r in records.values()} == {folders.DONE}
    assert all(steps_done(folder, name) == [1, 2, 3, 4] for name in records)
    assert "| lr | val/loss, best | runs | seconds |" in first and "| 0.1 | 0.3500 ± 0.0000 | 2 |" in first
    written = table(folder)
    assert fakes.sweep(*flags) == 0 and fakes.sweep(f"--workdir={folder}", "--table") == 0 and table(folder) == written
    assert "started" not in capsys.readouterr().out
    assert all(steps_done(folder, name) == [1, 2, 3, 4] for name in records)
    for record in records.values():  # as a kill leaves it between the end of a run and writing that down
        Folder(folder).write(dataclasses.replace(record, status=folders.RUNNING, exit_code=None))
    assert fakes.sweep(*flags) == 0 and "started" not in capsys.readouterr().out and table(folder) == written
    assert fakes.sweep(*flags[:-1], "--seeds=3") == 0, "made larger, it does what is new"
    assert capsys.readouterr().out.count("started") == 3
    assert written[0][:2] == ["lr", "val/loss, best, mean"] and [row[0] for row in written[1:]] == ["0.1", "0.2", "0.3"]


def test_a_failed_run_stops_no_other_and_says_why(tmp_path, capsys):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "sweep"
    flags = [f"--config={spec}", "--grid", "weight_decay=0,2", "--seeds=2", f"--workdir={folder}", "--slots=2"]
    assert fakes.sweep(*flags) == 1
    out = capsys.readouterr().out
    assert "| error: no room on this device" in out and "2 of 4 runs failed" in out
    assert "weight_decay=2_seed=1 failed with exit code 2: error: no room on this device" in out.splitlines()
    failed = Folder(folder).records()["weight_decay=2_seed=0"]
    assert (failed.status, failed.exit_code) == (folders.FAILED, 2) and "| 2 | - | 0 of 2 (failed) |" in out
    assert fakes.sweep(*flags) == 1 and "started" not in capsys.readouterr().out, "a failure is not repeated"
    assert fakes.sweep(*flags, "--retry") == 0, "from its last step on it gets through, this time"
    assert steps_done(folder, "weight_decay=2_seed=0") == [1, 2, 3, 4]
    assert fakes.sweep(f"--config={spec}", "--grid", "weight_decay=2", "--seeds=2", f"--workdir={tmp_path / 'bad'}") == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("failed with exit code 2: error: no room" in line for line in lines) == 2 and "every run failed" in lines[-1]


def test_killed_at_any_moment_it_finishes_what_is_missing(tmp_path):
    """By kill -9, of the sweep alone: the system stops its runs, which save; the next start goes on with them."""
    spec, folder, whole = fakes.config_file(tmp_path, steps=8), tmp_path / "sweep", tmp_path / "whole"
    flags = [f"--config={spec}", "--grid", "lr=0.1,0.2,0.3", "--seeds=2", "--slots=2"]
    rng = random.Random(0)
    for _ in range(3):
        process = begin(*flags, f"--workdir={folder}", seconds=0.1)
        until(lambda: list((folder / "runs").glob("*/starts")))
        before = len(list((folder / "runs").glob("*/steps")))
        until(lambda before=before: len(list((folder / "runs").glob("*/steps"))) > before)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
    process = begin(*flags, f"--workdir={folder}", seconds=0.0)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert fakes.sweep(*flags, f"--workdir={whole}") == 0
    for name in Folder(folder).records():
        assert steps_done(folder, name) == list(range(1, 9)), "no step twice, none left out"
    assert table(folder) == table(whole)


def test_ctrl_c_lets_the_runs_save(tmp_path):
    spec, folder = fakes.config_file(tmp_path, steps=50), tmp_path / "sweep"
    process = begin(f"--config={spec}", "--seeds=3", "--slots=2", f"--workdir={folder}", seconds=0.1)
    until(lambda: len(list((folder / "runs").glob("*/steps"))) == 2)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == runtime.EXIT_RESUMABLE and "3 runs are left; the same command goes on" in out, out
    assert [r.status for r in Folder(folder).records().values()] == [folders.STOPPED, folders.STOPPED, folders.WAITING]
    assert json.loads((folder / "runs" / "seed=0" / "ended.json").read_text())["exit_code"] == 75


def test_two_sweeps_in_one_folder_share_the_runs(tmp_path):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "sweep"
    flags = [f"--config={spec}", "--seeds=8", f"--workdir={folder}"]
    both = [begin(*flags, seconds=0.05) for _ in range(2)]
    outs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert sum(out.count("started ") for out in outs) == 8
    assert all(steps_done(folder, f"seed={i}") == [1, 2, 3, 4] for i in range(8))


def test_a_run_waits_for_the_one_that_it_goes_on_from(tmp_path, capsys):
    """A batch size that grows: each run goes on from the last one's end, also with several slots; a failed stage ends the chain."""
    spec, folder = fakes.config_file(tmp_path, sweep="ramp((8, 16, 32), (3, 3, 4))"), tmp_path / "sweep"
    assert fakes.sweep(f"--config={spec}", f"--workdir={folder}", "--slots=3") == 0
    assert [steps_done(folder, f"ramp-{size}") for size in (8, 16, 32)] == [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10]]
    assert json.loads((folder / "runs" / "ramp-32" / "branched_from.json").read_text())["step"] == 6
    assert "the runs have different budgets: 3 steps of 8 x 16; 6 steps of 16 x 16; 10 steps of 32 x 16\n" in capsys.readouterr().out
    assert fakes.sweep(f"--config={spec}", f"--workdir={tmp_path / 'part'}", "--only=ramp-16") == 75, "it does not wait for ever"
    assert "ramp-16 waits for ramp-8, which is waiting" in capsys.readouterr().out
    assert fakes.sweep(f"--config={spec}", f"--workdir={tmp_path / 'bad'}", "--config.weight_decay=2") == 1
    out = capsys.readouterr().out
    assert "ramp-8 failed with exit code 2: error: no room" in out
    assert (
        f"ramp-16 failed with exit code 2: error: {tmp_path / 'bad' / 'runs' / 'ramp-8'} has no checkpoint of step 3; it has 1, 2." in out
    )
    assert "ramp-32 failed with exit code 2: error:" in out


def test_a_sweep_is_joined_from_anywhere(tmp_path, monkeypatch, capsys):
    """By the folder alone, however that is spelled: a branch waits for its parent, and runs start where the sweep was declared."""
    here, there, elsewhere = tmp_path / "here", tmp_path / "there", tmp_path / "elsewhere"
    for path in (here, there):
        path.mkdir()
    fakes.config_file(here, sweep="ramp((8, 16), (3, 3))")
    monkeypatch.chdir(here)
    assert fakes.sweep("--config=fake.py", "--workdir=../s", "--only=ramp-8", "--no_table") == 0
    assert fakes.sweep("--config=fake.py", "--workdir=../s", "--only=ramp-8", "--list") == 0
    shutil.rmtree(tmp_path / "s" / "runs")
    Folder(tmp_path / "s").write(dataclasses.replace(Folder(tmp_path / "s").record("ramp-8"), status=folders.STOPPED))
    monkeypatch.chdir(there)
    assert fakes.sweep(f"--workdir={tmp_path / 's'}", "--only=ramp-16", "--no_table") == runtime.EXIT_RESUMABLE
    assert "ramp-16 waits for ramp-8, which is stopped" in capsys.readouterr().out
    assert fakes.sweep("--workdir=../s", "--figure=x.svg") == 0 and (there / "x.svg").is_file() and os.getcwd() == str(there)
    for name in ("ramp-8", "ramp-16"):
        assert (tmp_path / "s" / "runs" / name / "directory").read_text() == str(here)
    here.rename(elsewhere)
    with pytest.raises(UserError, match=f"was declared in {here}, .* there is no such directory here"):
        fakes.sweep("--workdir=../s")
    assert fakes.sweep("--workdir=../s", "--list") == fakes.sweep("--workdir=../s", "--table") == 0, "to look it is not needed"


def test_a_run_that_cannot_be_made_stops_no_other(tmp_path, monkeypatch, capsys):
    """A checkpoint that its run deletes while it is copied, a full disk, a log that cannot be opened."""
    spec, folder = fakes.config_file(tmp_path, sweep="chain(ramp((8, 16), (3, 3)), grid(lr=(0.1, 0.2)))"), tmp_path / "sweep"
    whole = shutil.copytree

    def rotated(source, to, **kw):
        whole(source, to, **kw)
        shutil.rmtree(source)
        raise shutil.Error([(str(source), str(to), "[Errno 2] No such file or directory")])

    monkeypatch.setattr(branching.shutil, "copytree", rotated)
    (folder / "logs" / "lr=0.1.log").mkdir(parents=True)
    assert fakes.sweep(f"--config={spec}", f"--workdir={folder}", "--slots=2") == 1
    status = {name: record.status for name, record in Folder(folder).records().items()}
    assert status == {"ramp-8": "done", "ramp-16": "failed", "lr=0.1": "failed", "lr=0.2": "done"}
    out = capsys.readouterr().out
    assert "it has 1, 2. Let that run keep them" in out and "Is a directory" in out and "| 0.2 |  |  |  | 0.4500 | 1 |" in out
    assert not list((folder / "runs").glob(".*")), "what was copied half is gone"

    def full(source, to, **kw):
        raise shutil.Error([(str(source), str(to), "[Errno 28] No space left on device")])

    monkeypatch.setattr(branching.shutil, "copytree", full)
    with pytest.raises(UserError, match="cannot be made of .*@2: .*No space left"):
        branching.prepare(f"{folder}/runs/ramp-8@2", folder / "runs" / "x")


def test_a_sweep_that_is_declared_smaller_meanwhile_ends_well(tmp_path, capsys):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "sweep"
    made = fakes.command()

    def command(folder, record):
        folder.forget("lr=2")
        return made(folder, record)

    assert program.main([f"--config={spec}", "--grid", "lr=1,2", f"--workdir={folder}"], command) == 0
    out = capsys.readouterr().out
    assert "| 1 | 1.2500 |" in out or "| 1.2500 |" in out


def test_a_declaration_keeps_what_becomes_of_runs_meanwhile(tmp_path, monkeypatch):
    """Between the reading of the records and the writing, which may be long: a run of another process ends, or is begun."""
    spec, folder = fakes.config_file(tmp_path), Folder(tmp_path / "sweep")
    declared = Declaration(str(spec), seeds=3)
    runs = declaration.runs(declared, declaration.arms(declared), folder.root)
    scheduler.declare(folder, runs)
    stamps = [path.stat().st_mtime_ns for path in sorted(folder.root.glob("records/*"))]
    scheduler.declare(folder, runs)
    assert stamps == [path.stat().st_mtime_ns for path in sorted(folder.root.glob("records/*"))], "the same again is not written"
    begun, claims = scheduler.begun, [folder.claim("seed=0")]
    folder.write(dataclasses.replace(folder.record("seed=0"), status=folders.RUNNING, attempts=1))
    ended = dict(status=folders.FAILED, exit_code=2, reason=("error: x",), seconds=99.0)

    def meanwhile(folder):
        found = begun(folder)
        folder.write(dataclasses.replace(folder.record("seed=0"), **ended))
        claims.pop().release()
        claims.append(folder.claim("seed=1"))
        folder.write(dataclasses.replace(folder.record("seed=1"), status=folders.RUNNING))
        folder.write(dataclasses.replace(folder.record("seed=2"), status=folders.DONE))
        return found

    monkeypatch.setattr(scheduler, "begun", meanwhile)
    larger = dataclasses.replace(declared, common=("total_steps=4",))
    scheduler.declare(folder, declaration.runs(larger, declaration.arms(larger), folder.root)[:2])
    first, second, third = folder.records().values()
    assert (first.status, first.seconds, first.reason, first.attempts) == ("failed", 99.0, ("error: x",), 1)
    assert first.overrides[0] == "total_steps=4" and second.status == "running" and third.status == "done"
    assert scheduler.Declared(folder, ["seed=0", "seed=1"]).next() is None
    monkeypatch.setattr(scheduler, "begun", begun)
    other = Folder(tmp_path / "other")
    scheduler.declare(other, runs)
    threading.Timer(0.2, other.claim("seed=0").release).start()  # of a process that looks whether it can begin it
    scheduler.declare(other, declaration.runs(larger, declaration.arms(larger), other.root))
    assert other.record("seed=0").overrides[0] == "total_steps=4", "nothing is left as it was because somebody looked"


def test_failures_are_said_whatever_else_goes_wrong(tmp_path, capsys):
    spec = fakes.config_file(tmp_path)
    flags = [f"--config={spec}", "--config.weight_decay=2", "--seeds=2", "--objective=val/accuracy", "--direction=max"]
    assert fakes.sweep(*flags, f"--workdir={tmp_path / 's'}", f"--figure={tmp_path / 'x.png'}") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "error: --figure: no run has a val/accuracy in its metrics.jsonl." in lines and "every run failed" in lines[-1]
    assert sum("failed with exit code 2: error: no room" in line for line in lines) == 2
    with pytest.raises(UserError, match="ends in .png"):
        fakes.sweep(*flags, f"--workdir={tmp_path / 'none'}", "--figure=x.jpeg")
    assert not (tmp_path / "none").exists(), "a wrong name is said before anything is run"


def test_what_a_code_means():
    """SIGTERM may come from outside, to a run that is too young to catch it; another process may have the workdir."""
    assert processes.outcome(-signal.SIGTERM, False) == processes.outcome(runtime.EXIT_IN_USE, False) == folders.STOPPED
    assert processes.outcome(-signal.SIGKILL, False) == processes.outcome(2, True) == folders.FAILED
    assert processes.outcome(-signal.SIGKILL, True) == folders.STOPPED and processes.outcome(0, True) == folders.DONE


def test_a_lock_of_another_boot_keeps_nobody_waiting_but_its_run(tmp_path):
    """After a reboot, or in another container, nobody can tell whether the holder lives; the run itself watches for that."""
    spec, folder = fakes.config_file(tmp_path), Folder(tmp_path / "sweep")
    declared = Declaration(str(spec))
    scheduler.declare(folder, declaration.runs(declared, declaration.arms(declared), folder.root))
    folder.write(dataclasses.replace(folder.record("run"), status=folders.RUNNING, host=socket.gethostname()))
    folder.workdir("run").mkdir(parents=True)
    about = {"id": "x", "pid": 1, **lock._here(), "boot": "another", "job": None, "since": "yesterday"}
    (folder.workdir("run") / lock.LOCK).write_text(f"{0:012d}\n{json.dumps(about)}\n")
    began = time.monotonic()
    record, claim = scheduler.Declared(folder, ["run"]).next()
    assert record.name == "run" and time.monotonic() - began < 5
    claim.release()
    (folder.workdir("run") / lock.LOCK).unlink()
    with lock.RunLock(folder.workdir("run")):
        assert scheduler.Declared(folder, ["run"]).next() is None, "one of this machine is known to live"
        with pytest.raises(UserError) as error, lock.RunLock(folder.workdir("run")):
            pass
    assert error.value.exit_code == runtime.EXIT_IN_USE


def test_files_that_cannot_be_read_are_named(tmp_path):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "sweep"
    assert fakes.sweep(f"--config={spec}", "--seeds=2", f"--workdir={folder}", "--no_table") == 0
    (folder / "runs" / "seed=0" / "ended.json").write_text("")
    (folder / "runs" / "seed=0" / "config.json").write_text("")
    Folder(folder).write(dataclasses.replace(Folder(folder).record("seed=0"), status=folders.STOPPED))
    assert fakes.sweep(f"--config={spec}", "--seeds=2", f"--workdir={folder}", "--no_table") == 0, "it is gone on with"
    path = folder / "records" / "seed=1.json"
    record = json.loads(path.read_text())
    for text, said in [("", f"{path} cannot be read"), (json.dumps({**record, "new": 1}), "'new': it is of another version of the lab")]:
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            fakes.sweep(f"--workdir={folder}", "--list")


def test_other_configs_are_refused_and_names_are_checked(tmp_path, capsys):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "sweep"
    assert fakes.sweep(f"--config={spec}", "--seeds=2", f"--workdir={folder}", "--only=1") == 0
    assert [r.status for r in Folder(folder).records().values()] == [folders.WAITING, folders.DONE]
    capsys.readouterr()
    for flags, said in [
        (["--only=sed=1"], 'Did you mean "seed='),
        (["--launcher=slrum"], 'Did you mean "slurm"'),
        (["--seed=3"], 'Did you mean "seeds"'),
        (["--objective=vla/loss"], "comes from no evaluator"),
        (["--objective=val/acuracy", "--direction=max"], '--objective: "val/acuracy" is not known. Did you mean "val/accuracy"'),
        (["--direction=up"], "expected min or max"),
        (["--trials=3"], "belong to a search"),
    ]:
        with pytest.raises(UserError, match=said):
            fakes.sweep(f"--config={spec}", "--seeds=2", f"--workdir={folder}", *flags)
    with pytest.raises(UserError, match="holds no sweep"):
        fakes.sweep(f"--workdir={tmp_path / 'none'}")
    assert fakes.sweep(f"--workdir={folder}", "--list") == 0
    out = capsys.readouterr().out
    assert "0  waiting  seed=0" in out and "1  done     seed=1" in out
    (folder / "runs" / "seed=1" / "config.json").write_text('{"seed": 1, "total_steps": 9}')  # as the lab's runs write theirs
    with pytest.raises(UserError, match="seed=1: total_steps: 9 -> 4"):
        fakes.sweep(f"--config={spec}", "--seeds=2", f"--workdir={folder}")
    assert fakes.sweep(f"--config={spec}", "--grid=lr=1,2", f"--workdir={tmp_path / 'dry'}", "--dry_run") == 0
    assert "--config.lr=2" in capsys.readouterr().out and not (tmp_path / "dry").exists()


def test_why_a_run_failed_is_one_line():
    assert processes.why(1, ("Traceback", "  File x", "ValueError: no")) == "ValueError: no"
    assert processes.why(2, ("error: before", "error: x has 2 problems:", "  - a", "  - b")) == "error: x has 2 problems: - a - b"
    assert processes.why(-9, ()) == "ended by SIGKILL (out of memory?)" and processes.why(3, ()) == "it said nothing"
