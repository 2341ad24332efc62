"""Every way of adapting a model beside the others: a run for each method and seed, and one table of what they cost and how well they do.

python -m decoder_lab.benchmark.methods --config=experiments/finetune/minilm.py:task=sst2,data=data/sst2 --methods=all --seeds=3 \\
    --output=runs/minilm_sst2 [--config.total_epochs=1 ...]

A config file with METHODS, {name: ...}, has them as the values of its argument `method`. Of any other the methods are the lab's adapters
with their defaults, `--config.adapt.name=lora`. Each run is a process of its own, whose time and peak of memory (resident, compilation
included) are written down; it is an ordinary run, OUTPUT/METHOD_SEED. Run again, the command goes on where it was stopped and repeats
nothing that is done; the table is written anew after each run: methods.md, methods.csv, methods.png.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time
from typing import Any

from decoder_lab.core import config as config_lib
from decoder_lab.core import lock, lookup, numbers, runtime
from decoder_lab.core.errors import UserError, unknown
from decoder_lab.report import compare
from decoder_lab.report import methods as report

NEEDS_SETTINGS = ("freeze",)  # adapters that do nothing by default
POLL_SECONDS = 0.2
LAST_LINES = 12  # of a failed run's output that are shown


@dataclasses.dataclass(frozen=True)
class Run:
    """What is to be started: `python -m decoder_lab.main` with `flags`, in the folder `path`."""

    path: pathlib.Path
    flags: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        return ["-m", "decoder_lab.main", *self.flags, f"--workdir={self.path}"]

    def done(self) -> bool:
        """Whether it ended well. Errors: UserError where what lies there was begun by another command."""
        used = report.usage(self.path)
        if used and used[-1]["command"] != self.command:
            raise UserError(
                f"{self.path} was begun by another command:\n  {' '.join(used[-1]['command'])}\nnow:\n  {' '.join(self.command)}\n"
                "Say the same again, or another --output."
            )
        return bool(used) and used[-1]["exit_code"] == 0


def known_methods(file: str) -> tuple[list[str], bool]:
    """Returns (names of the methods of a config file, whether they are values of its argument `method`)."""
    own = runpy.run_path(file).get("METHODS") if pathlib.Path(file).is_file() else None
    return (list(own), True) if own else (lookup.names("adapter"), False)


def plan(spec: str, methods: str, seeds: int, output: pathlib.Path, further: list[str]) -> tuple[list[Run], Any]:
    """Returns (the runs, seed by seed; the config of the first). Errors: one UserError with what is wrong with any of them."""
    file, _, argument = spec.partition(":")
    known, of_argument = known_methods(file)
    every = [name for name in known if of_argument or name not in NEEDS_SETTINGS]
    chosen = every if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    if wrong := [name for name in chosen if name not in known]:
        raise UserError(unknown("--methods", wrong[0], known))
    if not chosen or seeds < 1:
        raise UserError(f"expected one method or more of {', '.join(known)}, and one seed or more; got {methods!r} and {seeds}.")
    found, first, problems = [], None, []
    for seed in range(seeds):
        for name in chosen:
            one = f"{file}:{','.join(filter(None, [argument, f'method={name}']))}" if of_argument else spec
            own = [f"seed={seed}", *([] if of_argument else [f"adapt.name={name}"])]
            overrides = [text.removeprefix("--config.") for text in further] + own
            try:
                config = config_lib.load(one, overrides)
                first = first or config
            except UserError as error:
                problems.append(str(error))
            found.append(Run(output / f"{name}_{seed}", (f"--config={one}", *(f"--config.{text}" for text in overrides))))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found, first


def score(config: Any, metric: str | None, mode: str | None) -> tuple[str, str]:
    """Returns (the number that methods are judged by, "min" or "max"); None: as the config chooses its best checkpoint.

    Errors: UserError for a number that no evaluator of the config gives, and for one of which nobody says what is better.
    """
    key = config.checkpoint.metric if metric is None else metric
    if not key:
        raise UserError("--metric: say which number methods are judged by, such as val/loss: the config's checkpoint.metric is empty.")
    if wrong := numbers.problem("--metric", key, config.evaluators, config.task):
        raise UserError(wrong)
    return key, mode or (config.checkpoint.mode if key == config.checkpoint.metric else compare.better((), key))


class Processes:
    """Runs one after another; a stop signal goes to the one that runs, which saves, and ends the rest. So does the end of this process."""

    def __init__(self):
        self.stopped, self._now = False, None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        del number, frame
        self.stopped = True
        if self._now is not None:
            self._now.terminate()

    def run(self, run: Run) -> int:
        """Runs it to its end; returns its exit code. What it used stands in its folder afterwards, and that it began before.

        One that a killed process left saving is waited for.
        """
        while lock.held_here(run.path) and not self.stopped:
            time.sleep(POLL_SECONDS)
        if self.stopped:
            return runtime.EXIT_RESUMABLE
        used = [*report.usage(run.path), {"command": run.command, "exit_code": None}]
        _write(run.path / report.USAGE, used)
        began = time.perf_counter()
        with open(run.path / "output.txt", "ab") as log:
            # in a session of its own, so that Ctrl-C reaches it once
            command = runtime.leashed([sys.executable, *run.command])
            self._now = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            _, status, resources = os.wait4(self._now.pid, 0)
            self._now.returncode = code = os.waitstatus_to_exitcode(status)
            self._now = None
        measured = {"exit_code": code, "seconds": time.perf_counter() - began, "peak_bytes": resources.ru_maxrss * 1024}
        _write(run.path / report.USAGE, [*used[:-1], used[-1] | measured])
        return code


def _write(path: pathlib.Path, content: Any) -> None:
    """Writes JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.writing")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def main(argv: list[str]) -> int:
    """Runs what is missing, writes the table after each; returns 1 where a run failed, 75 where it was stopped."""
    parser = argparse.ArgumentParser(
        "python -m decoder_lab.benchmark.methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE[:KEY=VALUE,...]", help="any config file")
    parser.add_argument("--methods", default="all", help="names with commas, or all")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ...")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the folder of the runs and of the table")
    parser.add_argument("--metric", help="the score (default: checkpoint.metric)")
    parser.add_argument("--mode", choices=("min", "max"), help="whether lower or higher is better (default: as is known of the score)")
    flags, further = parser.parse_known_args(argv)
    if wrong := [text for text in further if not text.startswith("--config.")]:
        raise UserError(f"unknown flag {wrong[0]}; settings of the runs are given as --config.NAME=VALUE.")
    runs, config = plan(flags.config, flags.methods, flags.seeds, flags.output, further)
    key, mode = score(config, flags.metric, flags.mode)
    with lock.RunLock(flags.output):  # a second command would begin the same runs
        return _work(flags, runs, key, mode)


def _work(flags: argparse.Namespace, runs: list[Run], key: str, mode: str) -> int:
    """Starts what is missing, one after another; returns the exit code."""
    missing = [run for run in runs if not run.done()]
    report.rows([run.path for run in runs if run not in missing], key, mode)  # says now what they lack, not after the next run
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done; the score is {key} ({mode})", flush=True)
    processes, failed = Processes(), []
    for run in missing:
        print(f"{run.path.name} ...", end=" ", flush=True)
        code = processes.run(run)
        if processes.stopped:
            print("stopped; the same command goes on from here")
            return runtime.EXIT_RESUMABLE
        used = report.usage(run.path)[-1]
        print(f"exit code {code}, {used['seconds']:.0f} s, {used['peak_bytes'] / 1e9:.2f} GB", flush=True)
        if code:
            failed.append(run)
            print("\n".join(f"  {line}" for line in (run.path / "output.txt").read_text(errors="replace").splitlines()[-LAST_LINES:]))
            continue
        report.write(report.rows([run.path for run in runs if run.done()], key, mode), key, flags.output)
    ready = [run.path for run in runs if run.done()]
    if ready:
        found = report.rows(ready, key, mode)
        report.write(found, key, flags.output)
        print("\n".join(report.table(found, key)))
        print(f"{flags.output}/methods.md, methods.csv, methods.png")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
