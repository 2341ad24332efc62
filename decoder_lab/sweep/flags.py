"""Many runs of one config, in slots of this machine or on others: declared, or searched; resumed by the same command.

python -m decoder_lab.sweep --config=FILE --grid lr=3e-4,1e-3 model.kw.width=64,128 --seeds 3 --workdir=sweeps/first
python -m decoder_lab.sweep --config=FILE --random 'lr=loguniform(1e-5,1e-2)' --search tpe --trials 40 --pruner asha --workdir=sweeps/search
python -m decoder_lab.sweep --workdir=sweeps/first          # goes on with what is missing, on any machine that has the folder
"""

import argparse
import dataclasses
import pathlib
import uuid
from collections.abc import Sequence
from typing import Any

from decoder_lab.core import numbers
from decoder_lab.core.errors import UserError, nearest, unknown
from decoder_lab.sweep import declaration, launchers, search
from decoder_lab.sweep.declaration import Declaration
from decoder_lab.sweep.folder import Folder
from decoder_lab.sweep.following import Objective

TELLS = ("grid", "zip", "random", "num", "draw_seed", "seeds", "own_seeds", "branch", "at", "decay", "config", "search")
PICTURES = (".png", ".svg", ".pdf")
HINT = "Settings of all runs are written --config.<name>=<value>."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"flag: {message}. All flags: python -m decoder_lab.sweep --help")


def parser() -> argparse.ArgumentParser:
    """The flags of the program."""
    made = _Parser(
        "python -m decoder_lab.sweep", allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--config", default="", metavar="FILE[:KEY=VALUE,...]", help="as of decoder_lab.main; its sweep() may declare arms")
    made.add_argument("--workdir", "--study", dest="workdir", type=pathlib.Path, metavar="DIR", help="the sweep's folder, or one to join")
    group = made.add_argument_group("what differs; all of them combine, with the config's sweep() too")
    several: dict[str, Any] = dict(nargs="+", action="extend", default=[])
    group.add_argument("--grid", metavar="SETTING=VALUE,VALUE", help="every combination", **several)
    group.add_argument(
        "--zip", nargs="+", action="append", default=[], metavar="SETTING=VALUE,VALUE", help="first with first, second with second"
    )
    group.add_argument(
        "--random", metavar="SETTING=DISTRIBUTION", help="uniform, loguniform, integers(LOW,HIGH), choice(A,B,...)", **several
    )
    group.add_argument("--num", type=int, default=0, help=f"draws of the distributions (default: {declaration.DEFAULT_DRAWS})")
    group.add_argument("--draw_seed", type=int, default=0, help="decides what is drawn (default: 0)")
    group.add_argument("--seeds", type=int, default=0, help="so many seeds of each arm, the same ones for all")
    group.add_argument("--own_seeds", action="store_true", help="another seed for each run")
    group.add_argument("--branch", default="", metavar="RUN", help="cooldowns of this stable run, --at its steps; needs no --config")
    group.add_argument("--at", default="", metavar="STEP,STEP", help="steps whose checkpoints branches begin with")
    group.add_argument(
        "--decay", default="", metavar="DURATION,...", help="how long the decay is: steps, or a share of the whole (default: 20%%)"
    )
    group = made.add_argument_group("which runs, and where")
    group.add_argument("--list", action="store_true", help="show the runs and stop")
    group.add_argument("--only", action="append", default=[], metavar="NAME,...", help="these runs: names, globs, numbers of --list")
    group.add_argument("--dry_run", action="store_true", help="show what would be started where; nothing is written")
    group.add_argument("--retry", action="store_true", help="start failed runs again too")
    group.add_argument("--slots", type=int, default=0, help="runs at once (default: one for each GPU, or one; launchers: all)")
    group.add_argument("--gpus_per_run", type=int, default=0, help="GPUs of a slot (default: one, or with --slots all, shared out)")
    group.add_argument("--launcher", default="local", help=f"one of {', '.join(launchers.NAMES)} (default: local)")
    group.add_argument("--sbatch", default="", metavar="OPTIONS", help="slurm: such as '--gpus=1 --time=4:00:00'")
    group.add_argument("--image", default="", help="kubernetes: what the pods run")
    group.add_argument("--claim", default="", help="kubernetes: the PersistentVolumeClaim with the folder and the code")
    group.add_argument("--mount", default="", help="kubernetes: where the pods see the claim")
    group = made.add_argument_group("what is looked at")
    group.add_argument("--objective", default="", metavar="NAME,...", help="numbers of metrics.jsonl (default: checkpoint.metric)")
    group.add_argument("--direction", default="", metavar="min|max,...", help="which way is better (default: checkpoint.mode)")
    group.add_argument("--value", default="", help="judge a run by its best or its last value (default: best)")
    group.add_argument("--table", action="store_true", help="make the tables again and stop")
    group.add_argument("--no_table", action="store_true", help="make no tables at the end")
    group.add_argument("--figure", type=pathlib.Path, metavar="FILE", help="draw the arms (.png, .svg or .pdf) at the end")
    group = made.add_argument_group("search")
    group.add_argument("--search", default="", help=f"let Optuna choose: one of {', '.join(search.SAMPLERS)}")
    group.add_argument("--trials", type=int, default=0, help="runs in all, other workers' included (default: 20)")
    group.add_argument("--pruner", default="", help=f"gives bad runs up early: one of {', '.join(search.PRUNERS)} (default: none)")
    group.add_argument("--storage", default="", metavar="URL", help="a database for the study (default: a file in the folder)")
    group.add_argument("--search_seed", type=int, default=0, help="of the sampler (default: 0)")
    return made


def says_nothing(flags: argparse.Namespace, common: Sequence[str]) -> bool:
    """Whether the flags declare nothing, so that what the folder holds is gone on with."""
    return not common and not any(getattr(flags, name) for name in TELLS)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns (flags, overrides of all runs). Errors: UserError for an unknown flag, with the nearest."""
    common = [word.removeprefix("--config.") for word in argv if word.startswith("--config.")]
    made = parser()
    flags, rest = made.parse_known_args([word for word in argv if not word.startswith("--config.")])
    if rest:
        known = [option.lstrip("-") for action in made._actions for option in action.option_strings]
        lines = [f"flag {word} is not known.{nearest(word.lstrip('-').split('=')[0], known)}" for word in rest]
        raise UserError("\n".join([*lines, HINT]))
    if wrong := [text for text in common if "=" not in text]:
        raise UserError(f"--config.{wrong[0]}: expected --config.{wrong[0]}=value.")
    if flags.launcher not in launchers.NAMES:
        raise UserError(unknown("--launcher", flags.launcher, launchers.NAMES))
    if flags.figure and flags.figure.suffix.lower() not in PICTURES:
        raise UserError(f"--figure: got {flags.figure}, expected a name that ends in {', '.join(PICTURES)}.")
    if flags.workdir is None:
        raise UserError("--workdir: say where the sweep shall live, such as --workdir=sweeps/first.")
    return flags, common


def declared(flags: argparse.Namespace, common: list[str], saved: dict, folder: Folder) -> Declaration:
    """Returns what the flags declare, or, where they say nothing, what the folder's sweep was declared with."""
    if saved and says_nothing(flags, common):
        return Declaration.of(saved["declaration"])
    steps = [text.strip() for text in flags.at.split(",") if text.strip()]
    if wrong := [text for text in steps if not text.isdecimal()]:
        raise UserError(f"--at: got {wrong[0]!r}, expected steps, such as 1000,2000.")
    if not flags.config and not flags.branch:
        folder.settings()  # says that there is none
        raise UserError("say --config=FILE too: the other flags say what differs between its runs.")
    return Declaration(
        spec=flags.config,
        common=tuple(common),
        grid=tuple(flags.grid),
        zip=tuple(map(tuple, flags.zip)),
        random=tuple(flags.random),
        num=flags.num,
        draw_seed=flags.draw_seed,
        seeds=flags.seeds,
        own_seeds=flags.own_seeds,
        branch=flags.branch,
        at=tuple(map(int, steps)),
        decay=tuple(text.strip() for text in flags.decay.split(",") if text.strip()),
    )


def objectives(flags: argparse.Namespace, saved: dict, configs: Sequence[Any] = ()) -> list[Objective]:
    """Returns what runs are judged by: of the flags, of the folder, or the checkpoint.metric of the first of the runs' configs.

    Errors: UserError for a number that none of these configs gives, and for directions that are missing or unknown.
    """
    config = configs[0] if configs else None
    before = [Objective(**o) for o in saved.get("objectives", [])]
    names = [name.strip() for name in flags.objective.split(",") if name.strip()]
    ways = [way.strip() for way in flags.direction.split(",") if way.strip()]
    if flags.value not in ("", "best", "last"):
        raise UserError(f'--value: got "{flags.value}", expected best or last.')
    if wrong := [way for way in ways if way not in ("min", "max")]:
        raise UserError(f'--direction: got "{wrong[0]}", expected min or max for each objective.')
    value = flags.value or (before[0].value if before else "best")
    if not names:
        if before:
            names, ways = [o.name for o in before], ways or [o.mode for o in before]
        elif config is not None:
            names, ways = [config.checkpoint.metric], ways or [config.checkpoint.mode]
    default = {o.name: o.mode for o in before}
    if config is not None:
        default |= {config.checkpoint.metric: config.checkpoint.mode}
        problems = [[numbers.problem("--objective", name, c.evaluators, c.task) for c in configs] for name in names]
        if wrong := [of_name[0] for of_name in problems if all(of_name)]:
            raise UserError("\n".join(wrong))
        for name, of_name in zip(names, problems, strict=True):
            if lacking := sum(map(bool, of_name)):
                print(f"{name}: {lacking} of {len(configs)} runs do not give it and will stand in the table without it.")
    ways = ways or [default.get(name, "") for name in names]
    if len(ways) != len(names) or "" in ways or not names:
        raise UserError(f"--direction: say min or max for each objective: {', '.join(names) or '--objective=NAME too'}.")
    return [Objective(name, way, value) for name, way in zip(names, ways, strict=True)]


def searching(flags: argparse.Namespace, saved: dict, folder: Folder) -> search.Settings | None:
    """Returns how to search, None for a sweep. Errors: UserError for a folder of the other kind, or flags that say otherwise than it."""
    before = search.Settings(**saved["search"]) if saved.get("search") else None
    if saved and bool(flags.search) != bool(before) and not says_nothing(flags, []):
        kind = "a search" if before else "a sweep without --search"
        raise UserError(f"{folder.root} holds {kind}: take another --workdir.")
    if not flags.search and not before:
        if flags.trials or flags.pruner or flags.storage:
            raise UserError(f"--trials, --pruner and --storage belong to a search: say --search={search.SAMPLERS[0]} too.")
        return None
    if flags.retry or flags.only:
        raise UserError("--retry, --only: they belong to declared runs; a search has trials: say --trials for more of them.")
    base = before or search.Settings(sampler=flags.search, study=f"{folder.root.resolve().name}-{uuid.uuid4().hex[:6]}")
    given = dict(sampler=flags.search, pruner=flags.pruner, trials=flags.trials, storage=flags.storage, seed=flags.search_seed)
    return dataclasses.replace(base, **{name: value for name, value in given.items() if value})
