"""Runs on other machines: a SLURM array, an indexed Kubernetes job, or the commands themselves. Functions from runs to text.

What a task of an array or a job starts is a sweep process for one run in the shared folder, so that what became of it is written down there
as everywhere, and a task that is started again goes on. `print` gives the plain commands of the runs.
"""

import hashlib
import json
import pathlib
import shlex
import sys
from collections.abc import Sequence

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep import processes
from decoder_lab.sweep.folder import Folder, Record

NAMES = ("local", "slurm", "kubernetes", "print")
NOTICE_SECONDS = 120  # before the end of its time a SLURM job is sent SIGTERM


def commands(folder: Folder, tasks: Sequence[Sequence[str]], python: str = sys.executable) -> str:
    """Returns one command a line: a sweep process in one slot for each task, with the flags that the task has, such as --only=NAME."""
    start = [python, "-m", "decoder_lab.sweep", f"--workdir={folder.root.absolute()}", "--slots=1", "--no_table"]
    return "".join(shlex.join([*start, *more]) + "\n" for more in tasks)


def written(folder: Folder, text: str) -> pathlib.Path:
    """Writes the commands of one submission, line n that of task n, counted from 1; returns the file.

    Tasks read it when they start, perhaps days later: each submission has a file of its own.
    """
    path = folder.root.absolute() / f"commands-{hashlib.sha256(text.encode()).hexdigest()[:8]}.txt"
    folders.write(path, text)
    return path


def plain(folder: Folder, records: Sequence[Record]) -> str:
    """Returns the command of each run, for a terminal or a launcher of one's own.

    A run that goes on from another's checkpoint is started by a sweep process, which waits for it and puts it into the run's workdir.
    """
    found = []
    for record in records:
        if record.source:
            found.append(commands(folder, [[f"--only={record.name}"]], "python"))
        else:
            found.append(shlex.join(["python", *processes.command(folder, record)[1:]]) + "\n")
    return "".join(found)


def slurm(folder: Folder, tasks: pathlib.Path, count: int, slots: int, options: str, here: pathlib.Path) -> str:
    """Returns the batch script of an array of `count` tasks (see `written`), `slots` at once (0: as many as there is room for)."""
    root = folder.root.absolute()
    wanted = "".join(f"#SBATCH {option}\n" for option in shlex.split(options))
    return f"""#!/bin/bash
#SBATCH --job-name={root.name}
#SBATCH --array=1-{count}{f"%{slots}" if slots else ""}
#SBATCH --output={root}/logs/slurm-%A_%a.out
#SBATCH --requeue
#SBATCH --signal=B:TERM@{NOTICE_SECONDS}
{wanted}
cd {shlex.quote(str(here))} || exit 2
command=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(tasks))})
[ -n "$command" ] || {{ echo "there is no task $SLURM_ARRAY_TASK_ID in" {shlex.quote(str(tasks))} >&2; exit 2; }}
bash -c "exec $command" &
child=$!
trap 'kill -TERM "$child"' TERM
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do # a signal ends a wait early
  code=0
  wait "$child" || code=$?
done
if [ "$code" -eq {runtime.EXIT_RESUMABLE} ]; then # stopped with everything saved: once more, from there
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def kubernetes(
    folder: Folder, tasks: pathlib.Path, count: int, slots: int, image: str, claim: str, mount: str, gpus: int, here: pathlib.Path
) -> str:
    """Returns the YAML of an indexed Job of `count` pods (see `written`), `slots` at once (0: all).

    Args:
      image: has `python`, and there decoder_lab and its packages.
      claim, mount: the PersistentVolumeClaim that holds the sweep's folder and the code, and where the pods see it.
    """
    root = folder.root.absolute()
    script = f'command=$(sed -n "$((JOB_COMPLETION_INDEX + 1))p" {shlex.quote(str(tasks))}); [ -n "$command" ] || exit 2; '
    script += 'exec sh -c "exec $command"'
    name = "".join(c if c.isalnum() else "-" for c in root.name.lower()).strip("-")[:50] or "sweep"
    name += tasks.stem.removeprefix("commands")  # a job cannot be changed: each submission is one of its own
    resources = f"\n        resources:\n          limits:\n            nvidia.com/gpu: {gpus}" if gpus else ""
    return f"""apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completions: {count}
  parallelism: {slots or count}
  completionMode: Indexed
  backoffLimitPerIndex: 0
  maxFailedIndexes: {count}
  podFailurePolicy:
    rules:
    - action: Ignore  # stopped with everything saved: the pod is made again and goes on
      onExitCodes:
        containerName: run
        operator: In
        values: [{runtime.EXIT_RESUMABLE}]
    - action: Ignore  # the node went away
      onPodConditions:
      - type: DisruptionTarget
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: {NOTICE_SECONDS}
      containers:
      - name: run
        image: {_quoted(image)}
        workingDir: {_quoted(str(here))}
        command: ["sh", "-c", {_quoted(script)}]{resources}
        volumeMounts:
        - name: work
          mountPath: {_quoted(mount)}
      volumes:
      - name: work
        persistentVolumeClaim:
          claimName: {_quoted(claim)}
"""


def check_kubernetes(folder: Folder, image: str, claim: str, mount: str, here: pathlib.Path) -> None:
    """Errors: UserError without an image or a claim, or where the folder or the directory to start in is not below the mount."""
    if not image or not claim or not mount:
        raise UserError("--launcher=kubernetes: say --image=IMAGE, --claim=NAME of a PersistentVolumeClaim and --mount=PATH.")
    for path, what in ((folder.root.absolute(), "the sweep's folder"), (here, "this directory, from which its config is found")):
        if not path.is_relative_to(mount):
            raise UserError(f"--mount: {path} ({what}) is not below {mount}: the pods would not see it.")


def _quoted(text: str) -> str:
    """YAML's double quotes, which are JSON's."""
    return json.dumps(text)
