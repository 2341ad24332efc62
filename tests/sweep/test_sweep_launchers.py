"""Runs on other machines: what is printed, written and submitted does what the sweep itself would do."""

import os
import subprocess
import sys
import time

import pytest
import sweep_fakes as fakes

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep import launchers
from decoder_lab.sweep.folder import Folder


def test_commands_of_branches_begin_with_their_checkpoints(tmp_path, capsys):
    """Printed ones too: a plain run of a later stage would train from scratch and end well."""
    spec = fakes.config_file(tmp_path, sweep="ramp((8, 16), (3, 3))")
    for flag in ("--dry_run", "--launcher=print"):
        assert fakes.sweep(f"--config={spec}", f"--workdir={tmp_path / 's'}", flag) == 0
        first, second = capsys.readouterr().out.splitlines()[-3 if flag == "--dry_run" else -2 :][:2]
        assert first.startswith(f"python -m decoder_lab.main --config={spec} ") and f"--workdir={tmp_path}/s/runs/ramp-8 " in first
        assert second == f"python -m decoder_lab.sweep --workdir={tmp_path}/s --slots=1 --no_table --only=ramp-16"


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
    commands = next(path for path in folder.glob("commands-*.txt") if path.name in script)
    commands.write_text(f"bash -c 'exit {runtime.EXIT_RESUMABLE}'\ntrue\n")
    subprocess.run(["sbatch", str(folder / "array.sbatch")], check=True, capture_output=True)
    assert (tmp_path / "requeued").read_text() == "requeue 7_1\n", "only the task that was stopped comes again"
    assert fakes.sweep(*flags, "--seeds=2", "--launcher=print") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("python -m decoder_lab.main --config=") and "--config.seed=1" in line for line in lines)
    with pytest.raises(UserError, match="is not below /data"):
        fakes.sweep(*flags, "--seeds=2", "--launcher=kubernetes", "--image=lab", "--claim=work", "--mount=/data")
    with pytest.raises(UserError, match=f"{os.getcwd()} .this directory.* is not below {tmp_path}"):
        fakes.sweep(*flags, "--seeds=2", "--launcher=kubernetes", "--image=lab", "--claim=work", f"--mount={tmp_path}")
    monkeypatch.chdir(tmp_path)
    more = ["--image=lab:1", "--claim=work", f"--mount={tmp_path}", "--gpus_per_run=2", "--slots=1"]
    assert fakes.sweep(*flags, "--seeds=2", "--launcher=kubernetes", *more) == 0
    job = pytest.importorskip("yaml").safe_load((folder / "job.yaml").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["completionMode"]) == (2, 1, "Indexed")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2 and container["volumeMounts"][0]["mountPath"] == str(tmp_path)
    pod = bin_folder / "python"  # the image's own: this machine's interpreter need not be in it
    pod.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    pod.chmod(0o755)
    assert sys.executable not in (folder / f"commands{job['metadata']['name'].removeprefix('my-sweep')}.txt").read_text()
    for index, code in ((0, 0), (1, 0), (2, 2)):
        environment = {**os.environ, "JOB_COMPLETION_INDEX": str(index)}
        assert subprocess.run(container["command"], env=environment, capture_output=True).returncode == code, "there is no third task"
    assert {r.status for r in Folder(folder).records().values()} == {folders.DONE}


def test_a_later_submission_leaves_an_earlier_ones_tasks_as_they_are(tmp_path, monkeypatch):
    """Tasks read their command when they start, perhaps after others were submitted; one without a command says so."""
    spec, folder, bin_folder = fakes.config_file(tmp_path), tmp_path / "sweep", tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    (bin_folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    monkeypatch.setattr(launchers, "commands", lambda folder, tasks, python="": "".join(f"echo {flags[0]}\n" for flags in tasks))
    assert fakes.sweep(f"--config={spec}", "--seeds=3", f"--workdir={folder}", "--launcher=slurm") == 0
    pending = (folder / "array.sbatch").read_text()  # SLURM keeps the script of a submission
    assert fakes.sweep(f"--workdir={folder}", "--only=seed=0", "--launcher=slurm") == 0

    def task(number):
        environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": number}
        return subprocess.run(["bash", "-s"], input=pending, env=environment, capture_output=True, text=True)

    assert task("3").stdout == "--only=seed=2\n"
    assert task("4").returncode == 2 and "there is no task 4" in task("4").stderr


SAVING = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.2)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_a_slurm_task_whose_time_is_over_saves_and_comes_again(tmp_path):
    """SLURM sends the batch script a SIGTERM; the script passes it on, waits until everything is saved, and asks to be queued again."""
    (tmp_path / "run.py").write_text(SAVING)
    tasks, bin_folder = tmp_path / "commands.txt", tmp_path / "bin"
    tasks.write_text(f"{sys.executable} -S {tmp_path / 'run.py'}\n")
    bin_folder.mkdir()
    (bin_folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\n')
    (bin_folder / "scontrol").chmod(0o755)
    script = launchers.slurm(Folder(tmp_path), tasks, 1, 0, "", tmp_path)
    about = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    job = subprocess.Popen(["bash", "-c", script], env={**os.environ, **about}, cwd=tmp_path)
    end = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    job.terminate()
    assert job.wait(60) == runtime.EXIT_RESUMABLE and (tmp_path / "asked").read_text() == "requeue 7_1\n"
