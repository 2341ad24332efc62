"""A run's folder, before time is spent: whether it is this config's run, can be written, and is the same folder for all processes.

Needs no JAX.
"""

import contextlib
import pathlib
import shutil
import tempfile
from typing import Any

from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import processes

OF_THE_MACHINE = ("mesh.", "parallel", "compiler_options")  # settings that change how a run is computed, not what


def refuse_other_config(config: Any, workdir: pathlib.Path, allow_changes: bool) -> None:
    """Errors: UserError where the folder holds a run of another config, unless changes are allowed, which are then said."""
    saved = workdir / "config.json"
    if not saved.is_file() or not has_checkpoint(workdir):
        return
    changed = config_lib.differences(config_lib.from_json(saved.read_text()), config)
    if changed and (allow_changes or all(line.startswith(OF_THE_MACHINE) for line in changed)):
        print("\n".join(["going on with changed settings:", *(f"  - {c}" for c in changed)]))
    elif changed:
        lines = [f"{workdir} was begun with another config:", *(f"  - {c}" for c in changed)]
        raise UserError("\n".join([*lines, "Use another --workdir, or --allow_changes to go on with the new settings."]))


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether a run in this folder has saved anything. Errors: UserError where that cannot be read."""
    folder = workdir / "checkpoints"
    try:
        return any(p.name.isdecimal() for p in folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}. Mend it, or take another --workdir.") from error


def make_ready(workdir: pathlib.Path) -> None:
    """Makes a run's folder ready, before time is spent. Errors: UserError where checkpoints could not be read or written."""
    if not has_checkpoint(workdir):
        for made in ("tokenizer", "source_tokenizer"):  # nothing depends on them yet, and the config may have changed
            shutil.rmtree(workdir / made, ignore_errors=True)
        (workdir / "task.json").unlink(missing_ok=True)
    folder = workdir / "checkpoints"
    try:
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) if folder.exists() else contextlib.nullcontext():
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to: {error.strerror}. Checkpoints go there: mend it, or take another --workdir."
        ) from error


def meet_in(workdir: pathlib.Path) -> None:
    """Errors: UserError where the folder is not the same one for all processes, as it must be for checkpoints."""
    if processes.count() == 1:
        return
    with tempfile.TemporaryDirectory(prefix=".meeting-", dir=workdir) if processes.first() else contextlib.nullcontext() as made:
        name, theirs = processes.share("folder", made and [pathlib.Path(made).name, str(workdir.absolute())])
        seen = processes.gather("folder seen", (workdir / name).is_dir())
    if blind := [i for i, sees in enumerate(seen) if not sees]:
        raise UserError(
            f"--workdir: {theirs} of process 0 on {processes.host(0)} is not the folder of process {blind[0]} on "
            f"{processes.host(blind[0])}. Put it on a file system that all machines share; data and caches may be local."
        )
