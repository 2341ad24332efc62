"""The scheduler with stand-ins for runs: everything is done once, whatever is killed, whoever joins, whatever fails."""

import csv
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import sweep_fakes as fakes

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep import launchers, processes, slots
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


def test_threads_are_shared_out_between_slots(tmp_path, monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    spec, folder = fakes.config_file(tmp_path), tmp_path / "sweep"
    assert fakes.sweep(f"--config={spec}", "--seeds=2", f"--workdir={folder}", "--slots=2", "--no_table") == 0
    threads = max(1, slots.cores() // 2)
    assert (folder / "runs" / "seed=1" / "starts").read_text().split() == ["0", str(threads)]


def test_slots_have_devices_of_their_own(tmp_path, monkeypatch):
    plan = lambda *a, **k: [dict(s.environment) for s in slots.plan(*a, **k)]  # noqa: E731
    assert plan(0, ["0", "1"], 8, {}) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert plan(2, ["4", "5", "6", "7"], 8, {}) == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    assert plan(0, ["4", "5", "6", "7"], 8, {}, 2) == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    with pytest.raises(UserError, match="more than the 2 GPUs"):
        plan(3, ["0", "1"], 8, {})
    with pytest.raises(UserError, match="there is no GPU"):
        plan(1, [], 8, {}, 1)
    assert plan(4, [], 8, {})[3]["NPROC"] == "2" and plan(4, [], 2, {"NPROC": "16"})[0]["OMP_NUM_THREADS"] == "1"
    assert "NPROC" not in plan(4, [], 2, {"NPROC": "16"})[0], "what the user chose stays"
    assert plan(4, [], 2, {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"})[0] == {} == plan(1, [], 2, {})[0]
    assert slots.visible_gpus({"CUDA_VISIBLE_DEVICES": "3,GPU-ab"}) == ["3", "GPU-ab"]
    assert slots.visible_gpus({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0"}) == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slots.visible_gpus({}) == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert slots.visible_gpus({}) == []


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
    capsys.readouterr()
    assert fakes.sweep(f"--config={spec}", f"--workdir={tmp_path / 'part'}", "--only=ramp-16") == 75, "it does not wait for ever"
    assert "ramp-16 waits for ramp-8, which is waiting" in capsys.readouterr().out
    assert fakes.sweep(f"--config={spec}", f"--workdir={tmp_path / 'bad'}", "--config.weight_decay=2") == 1
    out = capsys.readouterr().out
    assert "ramp-8 failed with exit code 2: error: no room" in out
    assert (
        f"ramp-16 failed with exit code 2: error: {tmp_path / 'bad' / 'runs' / 'ramp-8'} has no checkpoint of step 3; it has 1, 2." in out
    )
    assert "ramp-32 failed with exit code 2: error:" in out


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


def test_launchers_write_what_other_machines_run(tmp_path, capsys, monkeypatch):
    """SLURM by a stand-in for sbatch that runs the array's tasks one by one; each writes down what became of its run."""
    spec, folder = fakes.config_file(tmp_path), tmp_path / "my sweep"
    flags = [f"--config={spec}", "--grid", "lr=0.1,0.2", f"--workdir={folder}"]
    with pytest.raises(UserError, match="there is no sbatch here"):
        monkeypatch.setenv("PATH", "")
        fakes.sweep(*flags, "--launcher=slurm")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "scontrol").write_text('#!/bin/bash\necho "$@" >> "$REQUEUED"\n')
    task = 'SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i bash "$1" >/dev/null 2>&1'
    (bin_folder / "sbatch").write_text(f"#!/bin/bash\nfor i in 1 2; do {task}; done\necho Submitted batch job 7\n")
    for file in bin_folder.iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    monkeypatch.setenv("REQUEUED", str(tmp_path / "requeued"))
    written = launchers.commands
    monkeypatch.setattr(launchers, "commands", lambda *a: written(*a).replace("-m decoder_lab.sweep", f"{fakes.__file__} 0"))
    assert fakes.sweep(*flags, "--launcher=slurm", "--slots=1", "--sbatch=--gpus=1 --time=1:00:00") == 0
    script = (folder / "array.sbatch").read_text()
    assert "#SBATCH --array=1-2%1\n" in script and "#SBATCH --gpus=1\n#SBATCH --time=1:00:00\n" in script
    assert {r.status for r in Folder(folder).records().values()} == {folders.DONE} and "Submitted batch job 7" in capsys.readouterr().out
    (folder / "commands.txt").write_text(f"bash -c 'exit {runtime.EXIT_RESUMABLE}'\ntrue\n")
    subprocess.run(["sbatch", str(folder / "array.sbatch")], check=True, capture_output=True)
    assert (tmp_path / "requeued").read_text() == "requeue 7_1\n", "only the task that was stopped comes again"
    assert fakes.sweep(*flags, "--seeds=2", "--launcher=print") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("python -m decoder_lab.main --config=") and "--config.seed=1" in line for line in lines)
    with pytest.raises(UserError, match="is not below /data"):
        fakes.sweep(*flags, "--seeds=2", "--launcher=kubernetes", "--image=lab", "--claim=work", "--mount=/data")
    more = ["--image=lab:1", "--claim=work", f"--mount={tmp_path}", "--gpus_per_run=2", "--slots=1"]
    assert fakes.sweep(*flags, "--seeds=2", "--launcher=kubernetes", *more) == 0
    job = pytest.importorskip("yaml").safe_load((folder / "job.yaml").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["completionMode"]) == (2, 1, "Indexed")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2 and container["volumeMounts"][0]["mountPath"] == str(tmp_path)
    for index in (0, 1):
        environment = {**os.environ, "JOB_COMPLETION_INDEX": str(index)}
        subprocess.run(container["command"], check=True, env=environment, capture_output=True)
    assert {r.status for r in Folder(folder).records().values()} == {folders.DONE}


def test_why_a_run_failed_is_one_line():
    assert processes.why(1, ("Traceback", "  File x", "ValueError: no")) == "ValueError: no"
    assert processes.why(2, ("error: before", "error: x has 2 problems:", "  - a", "  - b")) == "error: x has 2 problems: - a - b"
    assert processes.why(-9, ()) == "ended by SIGKILL (out of memory?)" and processes.why(3, ()) == "it said nothing"
