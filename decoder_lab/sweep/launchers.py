"""Runs on other machines: a SLURM array, an indexed Kubernetes job, or the commands themselves. Functions from runs to text.

What a task of an array or a job starts is a sweep process for one run in the shared folder, so that what became of it is written down there
as everywhere, and a task that is started again goes on. `print` gives the plain commands of the runs.
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Sequence

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import processes
from decoder_lab.sweep.folder import Folder, Record

NAMES = ("local", "slurm", "kubernetes", "print")
COMMANDS = "commands.txt"  # line n is the command of task n, counted from 1
NOTICE_SECONDS = 120  # before the end of its time a SLURM job is sent SIGTERM


def commands(folder: Folder, tasks: Sequence[Sequence[str]]) -> str:
    """Returns one command a line: a sweep process in one slot for each task, with the flags that the task has, such as --only=NAME."""
    start = [sys.executable, "-m", "decoder_lab.sweep", f"--workdir={folder.root.absolute()}", "--slots=1", "--no_table"]
    return "".join(shlex.join([*start, *more]) + "\n" for more in tasks)


def plain(folder: Folder, records: Sequence[Record]) -> str:
    """Returns the plain command of each run, for a terminal or a launcher of one's own."""
    return "".join(shlex.join(["python", *processes.command(folder, record)[1:]]) + "\n" for record in records)


def slurm(folder: Folder, count: int, slots: int, options: str, here: pathlib.Path) -> str:
    """Returns the batch script of an array of `count` tasks, `slots` at once (0: as many as there is room for)."""
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
command=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(root / COMMANDS))})
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


def kubernetes(folder: Folder, count: int, slots: int, image: str, claim: str, mount: str, gpus: int, here: pathlib.Path) -> str:
    """Returns the YAML of an indexed Job of `count` pods, `slots` at once (0: all).

    Args:
      image: has decoder_lab and its packages.
      claim, mount: the PersistentVolumeClaim that holds the sweep's folder and the code, and where the pods see it.
    Errors: UserError without an image or a claim, or where the folder is not below the mount.
    """
    root = folder.root.absolute()
    if not image or not claim or not mount:
        raise UserError("--launcher=kubernetes: say --image=IMAGE, --claim=NAME of a PersistentVolumeClaim and --mount=PATH.")
    if not root.is_relative_to(mount):
        raise UserError(f"--mount: {root} is not below {mount}: the pods would not see it.")
    script = f'set -f; exec sh -c "exec $(sed -n "$((JOB_COMPLETION_INDEX + 1))p" {shlex.quote(str(root / COMMANDS))})"'
    name = "".join(c if c.isalnum() else "-" for c in root.name.lower()).strip("-")[:50] or "sweep"
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


def _quoted(text: str) -> str:
    """YAML's double quotes, which are JSON's."""
    return json.dumps(text)
