"""python -m decoder_lab.sweep: does what the flags say (flags.py), with the runs of this folder."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from decoder_lab.core import runtime
from decoder_lab.core.errors import UserError
from decoder_lab.sweep import declaration, launchers, live, results, scheduler, search, slots
from decoder_lab.sweep import flags as flags_lib
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.declaration import Declaration
from decoder_lab.sweep.folder import Folder, Record
from decoder_lab.sweep.following import Objective


def main(argv: Sequence[str], command: Callable[[Folder, Record], list[str]] | None = None) -> int:
    """Does what the flags say; returns the exit code. `command` makes the program of a run, of another kind in tests."""
    flags, common = flags_lib.parse(argv)
    folder = Folder(flags.workdir)
    saved = folder.settings() if folder.exists else {}
    with _where_declared(flags, saved) if saved and flags_lib.says_nothing(flags, common) else contextlib.nullcontext():
        return _main(flags, common, saved, command)


def _where_declared(flags: argparse.Namespace, saved: dict) -> contextlib.AbstractContextManager:
    """Goes to the directory in which a sweep was declared: its config, and often its data, are found from there."""
    there = pathlib.Path(saved["directory"])
    if there == pathlib.Path.cwd() or (not there.is_dir() and (flags.table or flags.list)):
        return contextlib.nullcontext()
    if not there.is_dir():
        hint = "Make it available under that name, or say the sweep's flags again, --config=FILE and so on."
        raise UserError(
            f"{flags.workdir} was declared in {there}, from where its config is found, and there is no such directory here. {hint}"
        )
    flags.workdir, flags.figure = (path and pathlib.Path(os.path.abspath(path)) for path in (flags.workdir, flags.figure))
    return contextlib.chdir(there)


def _main(flags: argparse.Namespace, common: list[str], saved: dict, command: Any) -> int:
    folder = Folder(flags.workdir)
    declared = flags_lib.declared(flags, common, saved, folder)
    if flags.table:
        objectives = flags_lib.objectives(flags, saved)
        return _tables(folder, objectives, flags)
    settings = flags_lib.searching(flags, saved, folder)
    if settings is not None:
        return _searched(flags, declared, settings, folder, saved, command)
    joining = bool(saved) and flags_lib.says_nothing(flags, common)
    if joining:
        names = list(folder.records())
        objectives = flags_lib.objectives(flags, saved)
    else:
        arms = declaration.arms(declared)
        runs = declaration.runs(declared, arms, folder.root, scheduler.begun(folder))
        if len(runs) < len(arms):
            print(f"{len(arms)} arms are {len(runs)} different runs; equal ones are run once.")
        objectives = flags_lib.objectives(flags, saved, [run.config for run in runs])
        if flags.list or flags.dry_run:
            return _shown(flags, folder, _as_records(runs, folder))
        names = scheduler.declare(folder, runs)
        _remember(folder, declared, objectives, None)
        _say_budgets(runs)
    records = folder.records()
    if flags.list or flags.dry_run:
        return _shown(flags, folder, [records[name] for name in names])
    names = scheduler.chosen(names, flags.only)
    if flags.launcher != "local":
        return _launched(flags, folder, [records[name] for name in names])
    places = slots.here(flags.slots, flags.gpus_per_run)
    jobs = scheduler.Declared(folder, names, flags.retry)
    return _run(flags, folder, jobs, objectives, names, places, len(names), command)


def _searched(
    flags: argparse.Namespace, declared: Declaration, settings: search.Settings, folder: Folder, saved: dict, command: Any
) -> int:
    arms = search.space_of(declared, folder.root)
    corner = next(search.corners(arms[0]))
    config = declaration.single(declared, corner, "check", folder.root).config
    objectives = flags_lib.objectives(flags, saved, [config])
    settings.check(objectives)
    if flags.dry_run or flags.list:
        for record in folder.records().values():
            print("\n".join(live.listing([record], folder)))
        for arm in arms:
            print(", ".join(f"{key}: {value}" for key, value in arm.items()))
        return 0
    with folder.alone():
        now = folder.settings() if folder.exists else {}
        if now and Declaration.of(now["declaration"]) != declared:
            raise UserError(f"{folder.root}: the study was begun with another declaration. Join it by --workdir alone, or take another.")
        search.check_objectives(objectives, now.get("objectives"))
        settings = dataclasses.replace(settings, study=now["search"]["study"]) if now else settings
        _remember(folder, declared, objectives, settings)
    if flags.launcher != "local":
        return _launched_workers(flags, folder)
    places = slots.here(flags.slots, flags.gpus_per_run)
    jobs = search.Search(folder, declared, settings, objectives)
    code = _run(flags, folder, jobs, objectives, list(folder.records()), places, settings.trials, command)
    for line in jobs.summary():
        print(line)
    return code


def _run(flags, folder: Folder, jobs: Any, objectives: list[Objective], names: list[str], places: list, expected: int, command: Any) -> int:
    """Runs in slots of this machine; then the tables, and a line for each run that failed."""
    progress = live.Progress(folder, objectives[0], names, expected)
    view = live.view(progress, places)
    try:
        scheduler.Scheduler(folder, places, jobs, view, command).run()
    finally:
        view.close()
    records = folder.records()
    # another process may have declared a sweep smaller; a trial whose settings do not go together is never started
    records = [record for name, record in records.items() if name in progress.names or record.trial is not None]
    if not flags.no_table:
        try:
            _tables(folder, objectives, flags)
        except (UserError, OSError) as error:  # what became of the runs is said in any case
            print(f"error: {error}")
    for line in scheduler.failures(records):
        print(line)
    code = scheduler.exit_code(records)
    if code == 0 and not jobs.finished():  # stopped by a signal between two runs
        code = runtime.EXIT_RESUMABLE
    failed = sum(r.status == folders.FAILED for r in records)
    left = sum(r.status not in folders.ENDED for r in records) + (expected - len(records) if code else 0)
    if failed:
        all_of = "every run failed" if failed == len(records) else f"{failed} of {len(records)} runs failed"
        again = " --retry starts the failed ones again." if records[0].trial is None else ""
        print(f"{all_of}; logs in {folder.root / 'logs'}.{again}")
    for record in records:
        if record.status not in folders.ENDED and (parent := scheduler.awaited(folder, record)):
            print(f"{record.name} waits for {parent.name}, which is {parent.status}")
    if left:
        print(f"{left} runs are left; the same command goes on.")
    return code


def _tables(folder: Folder, objectives: list[Objective], flags: argparse.Namespace) -> int:
    """Writes the tables, and the figure if asked for; prints the arms."""
    folder.settings()
    found = results.rows(folder, objectives)
    paths = results.write(folder, found, objectives)
    print(results.markdown(found, objectives), end="")
    for line in results.trouble(folder, found, objectives):
        print(line)
    print("tables: " + ", ".join(map(str, paths)))
    if flags.figure:
        from decoder_lab.sweep import figure

        print(f"figure: {figure.draw(folder, found, objectives[0], flags.figure)}")
    return 0


def _remember(folder: Folder, declared: Declaration, objectives: list[Objective], settings: search.Settings | None) -> None:
    plain = {"declaration": dataclasses.asdict(declared), "objectives": [dataclasses.asdict(o) for o in objectives]}
    folder.remember(plain | {"search": settings and dataclasses.asdict(settings), "directory": os.getcwd()})


def _as_records(runs: Sequence[declaration.Run], folder: Folder) -> list[Record]:
    """Returns records of runs that are not written down; of those that are, what became of them."""
    known = folder.records()
    return [
        dataclasses.replace(
            known.get(run.name) or Record(run.name, i, {}, "", ()), arm=run.arm, spec=run.spec, overrides=run.overrides, source=run.source
        )
        for i, run in enumerate(runs)
    ]


def _shown(flags: argparse.Namespace, folder: Folder, records: Sequence[Record]) -> int:
    """--list and --dry_run."""
    names = scheduler.chosen([record.name for record in records], flags.only)
    records = [record for record in records if record.name in names]
    if flags.list:
        print("\n".join(live.listing(records, folder)))
        return 0
    over = (folders.DONE, folders.PRUNED) if flags.retry else folders.ENDED
    todo = [record for record in records if record.status not in over]
    print(launchers.plain(folder, todo), end="")
    places = slots.here(flags.slots, flags.gpus_per_run)
    print(f"{len(todo)} of {len(records)} runs to do, in {len(places)} slots: " + "; ".join(place.has for place in places))
    return 0


def _say_budgets(runs: Sequence[declaration.Run]) -> None:
    """Says where the runs do not all get the same budget, as a comparison then compares budgets too."""

    def budget(config: Any) -> tuple:
        return (config.total_epochs or config.total_steps, config.batch_size, config.sequence_length)

    if len(found := sorted({budget(run.config) for run in runs})) > 1:
        shown = "; ".join(f"{steps:g} {'epochs' if runs[0].config.total_epochs else 'steps'} of {b} x {t}" for steps, b, t in found[:6])
        print(f"the runs have different budgets: {shown}{'; ...' if len(found) > 6 else ''}")


def _launched(flags: argparse.Namespace, folder: Folder, records: Sequence[Record]) -> int:
    """Writes, prints or submits what other machines shall do."""
    over = (folders.DONE, folders.PRUNED) if flags.retry else folders.ENDED
    todo = [record for record in records if record.status not in over]
    if flags.launcher == "print":
        print(launchers.plain(folder, todo), end="")
        return 0
    if not todo:
        print("nothing is left to run.")
        return 0
    more = ["--retry"] if flags.retry else []
    return _submit(flags, folder, [[f"--only={record.name}", *more] for record in todo], flags.slots)


def _launched_workers(flags: argparse.Namespace, folder: Folder) -> int:
    """As `_launched`, for a search: each task is a worker that joins the study."""
    tasks: list[list[str]] = [[] for _ in range(max(flags.slots, 1))]
    if flags.launcher == "print":
        print(launchers.commands(folder, tasks), end="")
        return 0
    return _submit(flags, folder, tasks, 0)


def _submit(flags: argparse.Namespace, folder: Folder, tasks: list[list[str]], at_once: int) -> int:
    here, count = pathlib.Path.cwd(), len(tasks)
    (folder.root / "logs").mkdir(exist_ok=True)
    if flags.launcher == "kubernetes":
        launchers.check_kubernetes(folder, flags.image, flags.claim, flags.mount, here)
        path = folder.root / "job.yaml"
        commands = launchers.written(folder, launchers.commands(folder, tasks, "python"))
        wanted = (flags.image, flags.claim, flags.mount, flags.gpus_per_run)
        path.write_text(launchers.kubernetes(folder, commands, count, at_once, *wanted, here))
        print(f"written: {path}, a job of {count} pods. Start it: kubectl apply -f {path}")
        return 0
    path = folder.root / "array.sbatch"
    commands = launchers.written(folder, launchers.commands(folder, tasks))
    path.write_text(launchers.slurm(folder, commands, count, at_once, flags.sbatch, here))
    if shutil.which("sbatch") is None:
        raise UserError(f"--launcher=slurm: there is no sbatch here; {path} is written, submit it where there is one.")
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch refused {path}: {done.stderr.strip()}")
    print(f"{done.stdout.strip()}: {count} tasks of {path}. --list shows how far they are, --table what came out.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
