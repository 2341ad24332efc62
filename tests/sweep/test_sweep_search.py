"""Search by Optuna, with stand-ins for runs: every trial is taken once, gone on with when its worker dies, and given up when it is bad."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import sweep_fakes as fakes

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import __main__ as program
from decoder_lab.sweep import algebra, processes, search
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.declaration import Declaration
from decoder_lab.sweep.folder import Folder
from decoder_lab.sweep.following import Objective

optuna = pytest.importorskip("optuna")
STATE = optuna.trial.TrialState
LOSS = Objective("val/loss", "min")
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


def searched(folder, spec, objective=LOSS, settings=None, **declared):
    """A search whose runs the test itself writes."""
    declared = Declaration(str(spec), **declared)
    return search.Search(Folder(folder), declared, settings or search.Settings(sampler="random", trials=12), [objective])


def evaluated(jobs, record, values):
    workdir = jobs.folder.workdir(record.name)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "val/loss": v}) + "\n" for i, v in enumerate(values, start=1)))


def test_several_arms_are_searched_together(tmp_path):
    """Where they have other choices, or other kinds, of one setting too: a parameter of a study has one distribution."""
    sweep = "chain(space(lr=choice(0.1, 0.2), ema=uniform(0.1, 0.9)), space(lr=uniform(1, 2)),"
    sweep += " space(lr=choice(0.3, 0.4), ema=uniform(0.1, 0.9), clip_norm=integers(1, 3)))"
    jobs = searched(tmp_path / "study", fakes.config_file(tmp_path, sweep=sweep))
    arms = []
    for _ in range(12):
        record, claim = jobs.next()
        evaluated(jobs, record, [record.arm["lr"]])
        jobs.folder.write(jobs.ended(dataclasses.replace(record, status=folders.DONE)))
        claim.release()
        arms.append(record.arm)
    assert jobs.next() is None and jobs.finished() and {t.state for t in jobs.study.trials} == {STATE.COMPLETE}
    rates = [(0.1, 0.2), None, (0.3, 0.4)]
    chosen = [trial.params["arm"] for trial in jobs.study.trials]
    assert set(chosen) == {0, 1, 2}
    for number, arm in zip(chosen, arms, strict=True):
        assert arm["lr"] in rates[number] if rates[number] else 1 <= arm["lr"] <= 2
        assert ("clip_norm" in arm) == (number == 2)
    names = {name for trial in jobs.study.trials for name in trial.params}
    assert names == {"arm", "0:lr", "1:lr", "2:lr", "ema", "clip_norm"}, "what all have alike is one parameter"


def test_a_study_stays_with_its_objectives(tmp_path, monkeypatch):
    """Whoever joins it, from whatever directory."""
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    fakes.config_file(tmp_path)
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    assert fakes.sweep("--config=fake.py", *SPACE, "--trials=1", f"--workdir={folder}", "--no_table") == 0
    for flags in (["--objective=train/lr", "--direction=max"], ["--direction=max"], ["--value=last"], ["--objective=val/loss,train/lr"]):
        flags += ["--direction=min,max"] if "," in flags[0] else []
        with pytest.raises(UserError, match="the study was begun with val/loss, min, best; got "):
            fakes.sweep(f"--study={folder}", "--trials=3", *flags)
    monkeypatch.chdir(elsewhere)
    assert len(study(folder).trials) == 1 and json.loads((folder / "sweep.json").read_text())["objectives"][0]["mode"] == "min"
    assert fakes.sweep("--study=../study", "--trials=2", "--objective=val/loss", "--no_table") == 0


@pytest.mark.parametrize("value", ["nan", 5.0])
@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_a_run_that_is_worse_than_all_or_no_number_is_given_up(tmp_path, pruner, value):
    """The latter from its first evaluation on: it would use its whole budget. One that is better than all is not."""
    settings = search.Settings(sampler="random", pruner=pruner, trials=12, study="x")
    jobs = searched(tmp_path / "study", fakes.config_file(tmp_path), settings=settings, random=("lr=uniform(0.1,5)",))
    for i in range(8):
        record, claim = jobs.next()
        evaluated(jobs, record, [1 + i / 100] * 12)
        jobs.watch(record)
        jobs.folder.write(jobs.ended(dataclasses.replace(record, status=folders.DONE)))
        claim.release()
    record, _ = jobs.next()
    evaluated(jobs, record, [0.5] * 9)
    assert not jobs.watch(record)
    record, _ = jobs.next()
    evaluated(jobs, record, [value] * 9)
    assert jobs.watch(record)
    jobs.ended(dataclasses.replace(record, status=folders.PRUNED))
    assert jobs.study.trials[-1].state == STATE.PRUNED and jobs.study.best_value == 1.0


def test_trials_whose_settings_do_not_go_together_are_said(tmp_path, capsys):
    """Also where a value would be no name of a file."""
    sweep = "space({'data.source.kw.train': choice('/data/a.txt', '/data/b.txt'), 'data.source.name': 'text',"
    sweep += " 'model.kw.width': integers(64, 128), 'model.kw.num_heads': 4})"
    spec, folder = fakes.config_file(tmp_path, sweep=sweep), tmp_path / "study"
    assert fakes.sweep(f"--config={spec}", "--search=random", "--trials=4", f"--workdir={folder}", "--no_table") == 1
    failed = [r for r in Folder(folder).records().values() if r.status == folders.FAILED]
    states = [t.state for t in study(folder).trials]
    assert len(Folder(folder).records()) == 4 and failed and len(failed) == states.count(STATE.FAIL)
    lines = capsys.readouterr().out.splitlines()
    assert sum("failed with exit code 2: error: " in line and "not divisible by num_heads 4" in line for line in lines) == len(failed)
    assert all("/" not in r.name and "train=-data-" in r.name for r in failed)


def test_a_search_that_is_stopped_between_two_runs_is_not_over(tmp_path, monkeypatch, capsys):
    """The run comes to its end as the signal comes: no record is left open, yet trials are, and SLURM queues it again."""
    spec, folder, made = fakes.config_file(tmp_path, steps=1), tmp_path / "study", fakes.command()
    monkeypatch.setattr(processes.Process, "stop", lambda self: None)

    def command(folder, record):
        os.kill(os.getpid(), signal.SIGTERM)
        return made(folder, record)

    flags = [f"--config={spec}", *SPACE, "--trials=9", "--no_table", f"--workdir={folder}"]
    assert program.main(flags, command) == runtime.EXIT_RESUMABLE
    assert [r.status for r in Folder(folder).records().values()] == [folders.DONE]
    assert "8 runs are left; the same command goes on." in capsys.readouterr().out
