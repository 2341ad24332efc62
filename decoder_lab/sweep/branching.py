"""A run that goes on from another run's checkpoint with other settings: a cooldown of a stable run, the next stage of a batch-size ramp.

The new workdir gets that checkpoint, with everything in it (parameters, optimiser, step, random key), the files that belong to the data and
the numbers up to that step. Then it is an ordinary workdir whose run was stopped there, and the lab's own resume goes on.
"""

import json
import pathlib
import shutil
from typing import Any

from decoder_lab.core.errors import UserError
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.following import Following

# of the run it comes from; what a run draws or locks is its own
FILES = ("config.json", "metrics.jsonl", "samples.jsonl", "details.jsonl", "task.json", "tokenizer", "source_tokenizer")
PATTERNS = ("reference-*.npz",)
RATE = "train/lr"
MOST_CHARACTERS = 300  # of the system's words on what could not be copied
FALLEN = 0.999  # a learning rate below this share of its peak is not that of the stable phase


def parts(source: str) -> tuple[pathlib.Path, int]:
    """Returns (folder, step) of "FOLDER@STEP"."""
    folder, _, step = source.rpartition("@")
    return pathlib.Path(folder), int(step)


def ready(source: str) -> bool:
    """Whether the checkpoint that a run begins with is there."""
    folder, step = parts(source)
    return (folder / "checkpoints" / str(step)).is_dir()


def prepare(source: str, workdir: pathlib.Path, schedule: str = "") -> None:
    """Makes the workdir that goes on from the checkpoint "FOLDER@STEP"; one that is there stays as it is.

    Errors: UserError where there is no such checkpoint, or it cannot be copied, or where a cooldown would begin after the learning rate
    has begun to fall.
    """
    if workdir.exists():
        return
    folder, step = parts(source)
    if not ready(source):
        raise UserError(missing(source))
    if schedule == "warmup_stable_decay":
        _refuse_fallen(folder, step)
    temporary = workdir.with_name(f".{workdir.name}.preparing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _copy(folder, step, temporary)
        if not ready(source):  # it was deleted meanwhile, and the copy may lack something
            raise FileNotFoundError
        temporary.rename(workdir)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        text = missing(source) if not ready(source) else f"{workdir} cannot be made of {source}: {str(error)[:MOST_CHARACTERS]}"
        raise UserError(text) from error


def _copy(folder: pathlib.Path, step: int, to: pathlib.Path) -> None:
    shutil.copytree(folder / "checkpoints" / str(step), to / "checkpoints" / str(step))
    found = [folder / name for name in FILES] + [path for pattern in PATTERNS for path in folder.glob(pattern)]
    for path in filter(pathlib.Path.exists, found):
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, to / path.name)
    (to / "branched_from.json").write_text(json.dumps({"run": str(folder), "step": step}) + "\n")


def missing(source: str) -> str:
    """What to say where the checkpoint is not there."""
    folder, step = parts(source)
    there = sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdecimal())
    return (
        f"{folder} has no checkpoint of step {step}; it has {', '.join(map(str, there)) or 'none'}. "
        "Let that run keep them: --config.checkpoint.every and --config.checkpoint.keep."
    )


def _refuse_fallen(folder: pathlib.Path, step: int) -> None:
    config: dict[str, Any] = folders.read(folder / "config.json")
    rates = Following(folder / "metrics.jsonl", [RATE]).read().values[RATE]
    before = [s for s in rates if s <= step]
    if before and rates[max(before)] < FALLEN * config["lr"] and rates[max(before)] < max(rates[s] for s in before):
        share = rates[max(before)] / config["lr"]
        raise UserError(
            f"{folder}: at step {step} its learning rate is {share:.0%} of its peak: the decay has begun already. "
            "Branch from an earlier step, or from a run whose decay is shorter."
        )
