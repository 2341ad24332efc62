"""Search by Optuna, with stand-ins for runs: every trial is taken once, gone on with when its worker dies, and given up when it is bad."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import sweep_fakes as fakes

from decoder_lab.core.errors import UserError
from decoder_lab.sweep import algebra, search
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.folder import Folder

optuna = pytest.importorskip("optuna")
STATE = optuna.trial.TrialState
SPACE = ("--random", "lr=loguniform(1e-3,1)", "--grid", "batch_size=8,16", "--search=tpe")


def begin(*arguments, seconds):
    command = [sys.executable, fakes.__file__, str(seconds), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def study(folder):
    settings = search.Settings(**json.loads((folder / "sweep.json").read_text())["search"])
    return optuna.load_study(
        study_name=settings.study,
        storage=settings.storage
        or optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / search.JOURNAL))),
    )


def starts(folder, record):
    return (folder / "runs" / record.name / "starts").read_text().splitlines()


def test_a_search_finds_the_better_end_and_is_an_ordinary_sweep(tmp_path, capsys):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "study"
    flags = [f"--config={spec}", *SPACE, "--trials=6", f"--workdir={folder}", "--slots=2"]
    assert fakes.sweep(*flags) == 0
    out = capsys.readouterr().out
    records = list(Folder(folder).records().values())
    trials = study(folder).trials
    assert [t.state for t in trials] == [STATE.COMPLETE] * 6 and [r.trial for r in records] == list(range(6))
    assert [r.arm["seed"] for r in records] == list(range(6)), "every trial has a seed of its own"
    for record, trial in zip(records, trials, strict=True):
        assert trial.params == {k: record.arm[k] for k in ("lr", "batch_size")} and trial.value == pytest.approx(trial.params["lr"] + 0.25)
    best = min(records, key=lambda r: r.arm["lr"])
    assert f"best: {best.name}: val/loss" in out and "| batch_size | lr | val/loss, best | runs | seconds |" in out
    again = tmp_path / "again"
    assert fakes.sweep(*flags[:-2], f"--workdir={again}", "--slots=1", "--pruner=none", "--trials=3") == 0
    assert fakes.sweep(f"--study={again}", "--trials=5") == 0, "by the folder alone it goes on"
    assert len(study(again).trials) == 5
    assert [t.params for t in study(again).trials[:1]] == [trials[0].params], "what is proposed is a function of the seed"
    capsys.readouterr()
    assert fakes.sweep(f"--study={again}", "--slots=3", "--launcher=print") == 0
    assert capsys.readouterr().out.count(f"-m decoder_lab.sweep --workdir={again} ") == 3, (
        "a worker a task, none of them with a run of its own"
    )
    with pytest.raises(UserError, match="another declaration"):
        fakes.sweep(f"--config={spec}", "--random", "lr=uniform(0.1,1)", "--search=tpe", f"--workdir={folder}")
    with pytest.raises(UserError, match="holds a search"):
        fakes.sweep(f"--config={spec}", "--grid", "lr=1,2", f"--workdir={folder}")


def test_two_workers_never_take_the_same_trial_and_never_one_too_many(tmp_path):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "study"
    flags = [f"--config={spec}", *SPACE, "--trials=12", f"--workdir={folder}", "--slots=2"]
    workers = [begin(*flags, seconds=0.02) for _ in range(2)]
    outs = [worker.communicate(timeout=90)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outs
    trials, records = study(folder).trials, list(Folder(folder).records().values())
    assert [t.state for t in trials] == [STATE.COMPLETE] * 12 and len(records) == 12
    assert all(len(starts(folder, record)) == 1 for record in records), "every trial was run once"
    taken = [{line.split()[1] for line in out.splitlines() if line.startswith("started")} for out in outs]
    assert len(taken[0]) + len(taken[1]) == 12 and not taken[0] & taken[1] and all(taken)


def test_the_trial_of_a_killed_worker_is_gone_on_with(tmp_path):
    """The same trial, with the same settings, from where its run had saved; no other takes its place."""
    spec, folder = fakes.config_file(tmp_path, steps=20), tmp_path / "study"
    flags = [f"--config={spec}", *SPACE, "--trials=3", f"--workdir={folder}"]
    worker = begin(*flags, seconds=0.1)
    deadline = time.monotonic() + 30
    while not list((folder / "runs").glob("*/checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    assert fakes.sweep(f"--workdir={folder}") == 0
    trials, first = study(folder).trials, next(iter(Folder(folder).records().values()))
    assert [t.state for t in trials] == [STATE.COMPLETE] * 3 and first.attempts == 2
    begun = [int(line.split()[0]) for line in starts(folder, first)]
    assert begun[0] == 0 and begun[1] > 0 and {k: first.arm[k] for k in trials[0].params} == trials[0].params


def test_bad_runs_are_given_up_early(tmp_path):
    """The median rule needs five whole runs first; then a run worse than their median is stopped by SIGTERM and counts as pruned."""
    spec, folder = fakes.config_file(tmp_path, steps=12), tmp_path / "study"
    flags = [f"--config={spec}", "--random", "lr=uniform(0.1,5)", "--search=random", "--pruner=median", f"--workdir={folder}"]
    assert fakes.sweep(*flags, "--trials=5") == 0
    assert fakes.sweep(f"--workdir={folder}", "--trials=9", seconds=0.2) == 0
    records = list(Folder(folder).records().values())
    pruned, whole = ([r for r in records if r.status == status] for status in (folders.PRUNED, folders.DONE))
    median = sorted(r.arm["lr"] for r in whole[:5])[2]
    assert pruned and len(pruned) + len(whole) == 9 and all(r.arm["lr"] > median for r in pruned)
    assert [t.number for t in study(folder).trials if t.state == STATE.PRUNED] == [r.trial for r in pruned]
    assert "pruned" in (folder / "table.md").read_text()


def test_several_objectives_and_a_relational_store(tmp_path, capsys):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "study"
    flags = [f"--config={spec}", *SPACE, "--objective=val/loss,train/lr", "--direction=min,max", f"--workdir={folder}"]
    with pytest.raises(UserError, match="--pruner: with several objectives"):
        fakes.sweep(*flags, "--pruner=asha")
    assert fakes.sweep(*flags, "--trials=3", f"--storage=sqlite:///{tmp_path / 'study.db'}") == 0
    assert all(len(t.values) == 2 and t.values[1] == 1.0 for t in study(folder).trials) and "best: " in capsys.readouterr().out


def test_failures_are_told_and_mistakes_said_before_anything_starts(tmp_path, capsys):
    spec, folder = fakes.config_file(tmp_path), tmp_path / "study"
    flags = [f"--config={spec}", "--random", "weight_decay=uniform(2,3)", "--search=random", f"--workdir={folder}"]
    assert fakes.sweep(*flags, "--trials=2") == 1
    assert [t.state for t in study(folder).trials] == [STATE.FAIL] * 2 and "every run failed" in capsys.readouterr().out
    for more, said in [
        (["--search=tpee"], 'Did you mean "tpe"'),
        (["--pruner=asah"], 'Did you mean "asha"'),
        (["--seeds=2"], "leave --seeds"),
        (["--random", "lrr=uniform(0,1)"], 'Did you mean "lr"'),
        (["--random", "lr=uniform(-1,1)"], "lr: got -1.0, expected more than 0"),
    ]:
        with pytest.raises(UserError, match=said):
            fakes.sweep(f"--config={spec}", "--random", "ema=uniform(0.1,0.9)", "--search=tpe", f"--workdir={tmp_path / 'x'}", *more)
    with pytest.raises(UserError, match="nothing is searched"):
        fakes.sweep(f"--config={spec}", "--search=tpe", f"--workdir={tmp_path / 'x'}")
    assert not (tmp_path / "x").exists()


def test_corners_reach_every_end_and_every_choice():
    arm = {"a": algebra.uniform(0, 1), "b": algebra.choice(3, 4, 5), "c": 7}
    found = list(search.corners(arm))
    assert {c["a"] for c in found} == {0, 1} and {c["b"] for c in found} == {3, 4, 5} and all(c["c"] == 7 for c in found)
