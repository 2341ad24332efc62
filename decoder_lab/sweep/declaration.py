"""From a config's `sweep()` and the command line to the runs: combined, checked all at once, named."""

import copy
import dataclasses
import functools
import json
import pathlib
import re
import runpy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from decoder_lab.core import config as config_lib
from decoder_lab.core import values as typed
from decoder_lab.core.errors import UserError, nearest
from decoder_lab.sweep import algebra, naming
from decoder_lab.sweep.algebra import FROM, NAME, Arm, Choice, Distribution

DISTRIBUTIONS = {f.__name__: f for f in (algebra.uniform, algebra.loguniform, algebra.integers, algebra.choice)}
DEFAULT_DRAWS = 10
MOST_NAMED = 3  # runs that a problem names
TRUNK_MAY_DIFFER = (NAME, FROM, "total_steps", "schedule.kw.decay")  # what a branch sets itself says nothing of where it comes from
# what a run that goes on from another's checkpoint may have otherwise
BRANCH_MAY_CHANGE = ("total_steps", "total_epochs", "schedule.", "lr", "batch_size", "accumulate", "evaluators.", "checkpoint.", "log.")


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What the command line says of a sweep's arms; plain texts, so that a folder can keep it.

    Attributes:
      spec: "file.py[:argument]"; empty: the runs are branches, and their config is that of the run that they go on from.
      common: overrides of all runs, "key=value".
      grid, zip, random: "key=value,value" and "key=loguniform(1e-5,1e-2)"; each entry of `zip` is one flag's list.
      num, draw_seed: how many draws of each arm with distributions, and by which seed.
      seeds: how many seeds an arm has; 0: what the config says. own_seeds: a different one for each run.
      branch, at, decay: the run to branch cooldowns from, its steps, and how long the decay is.
    """

    spec: str = ""
    common: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()
    zip: tuple[tuple[str, ...], ...] = ()
    random: tuple[str, ...] = ()
    num: int = 0
    draw_seed: int = 0
    seeds: int = 0
    own_seeds: bool = False
    branch: str = ""
    at: tuple[int, ...] = ()
    decay: tuple[str, ...] = ()

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Declaration":
        """The declaration that a JSON file holds."""
        lists = {k: tuple(tuple(x) if isinstance(x, list) else x for x in v) if isinstance(v, list) else v for k, v in plain.items()}
        return cls(**lists)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep, checked: its name, its arm, the overrides that make its config, and that config."""

    name: str
    arm: Arm
    spec: str
    overrides: tuple[str, ...]
    source: str  # the run whose checkpoint it goes on from: "NAME@STEP" of the same sweep, "/FOLDER@STEP" of another, or ""
    config: Any

    @property
    def identity(self) -> str:
        """Two runs with the same one are the same run."""
        return identity(self.config, self.source)


def identity(config: Any, source: str) -> str:
    """Returns what two runs have in common that are the same run."""
    return config_lib.digest(config) + (f" from {source}" if source else "")


def open_arms(declared: Declaration, searching: bool = False) -> list[Arm]:
    """Returns the arms as declared, distributions not yet drawn. With `searching`, a grid's values are choices too."""
    own = from_file(declared.spec) if declared.spec else [{}]
    if declared.branch:
        if not declared.at:
            raise UserError("--branch: say at which steps: --at 1000,2000.")
        cooled = [algebra.branches(declared.branch, declared.at, decay) for decay in declared.decay or ("20%",)]
        own = algebra.product(own, algebra.chain(*cooled))
    axes = dict(_axis("--grid", text) for text in declared.grid)
    grid = algebra.space({k: choices(v) for k, v in axes.items()}) if searching else algebra.grid(axes)
    zips = [algebra.zip_(dict(_axis("--zip", text) for text in texts)) for texts in declared.zip]
    drawn = algebra.space(dict(_distribution(text) for text in declared.random))
    return algebra.product(own, *zips, grid, drawn)


def choices(values: Sequence[Any]) -> Any:
    """A choice among the values; of one value, that value."""
    return Choice(tuple(values)) if len(values) > 1 else values[0]


def arms(declared: Declaration) -> list[Arm]:
    """Returns the arms of a sweep, all values plain, seeds included."""
    found = open_arms(declared)
    if any(algebra.is_open(arm) for arm in found):
        found = algebra.draw(found, declared.num or DEFAULT_DRAWS, declared.draw_seed)
    elif declared.num:
        raise UserError("--num: nothing is drawn: give a distribution, such as --random 'lr=loguniform(1e-5,1e-2)'.")
    if declared.seeds:
        found = algebra.product([{k: v for k, v in arm.items() if k != "seed"} for arm in found], algebra.seeds(declared.seeds))
    return [{**arm, "seed": algebra.own_seed(arm)} for arm in _distinct(found)] if declared.own_seeds else found


def from_file(spec: str) -> list[Arm]:
    """Returns what `sweep()` of the config file says, [{}] where it has none. Errors: UserError for anything but a list of dicts."""
    path, _, argument = spec.partition(":")
    config_lib.read_file(spec)  # says what is wrong with the file
    function = runpy.run_path(path).get("sweep")
    if function is None:
        return [{}]
    try:
        found = function(*([argument] if function.__code__.co_argcount else []))
    except UserError as error:
        raise UserError(f"{path}: sweep(): {error}") from error
    if not isinstance(found, list) or not found or not all(isinstance(arm, dict) and all(isinstance(k, str) for k in arm) for arm in found):
        raise UserError(
            f"{path}: sweep() gave {str(found)[:80]}, expected a list of dicts {{setting: value}}, such as grid(lr=(1e-4, 1e-3))."
        )
    return found


def overrides_of(arm: Arm) -> list[str]:
    """Returns "key=value" for each setting of an arm; a plug-in's dict becomes one for its name and one for each of its settings."""
    found = []
    for key, value in arm.items():
        if key[0] not in ":@":
            found += _flat(key, value)
    return found


def spec_of(spec: str, arm: Arm) -> str:
    """Returns "file.py:argument" with the arm's ":key"s among the arguments; those of the same key give way."""
    path, _, argument = spec.partition(":")
    given = {key[1:]: _text(value) for key, value in arm.items() if key.startswith(":")}
    kept = [item for item in argument.split(",") if item and item.partition("=")[0] not in given]
    items = [*kept, *(f"{key}={text}" for key, text in given.items())]
    return f"{path}:{','.join(items)}" if items else path


def runs(declared: Declaration, found: Sequence[Arm], folder: pathlib.Path, taken: Mapping[str, str] | None = None) -> list[Run]:
    """Returns the checked runs of the arms, equal ones once. `taken`: {identity: name} of the runs that the folder has already.

    Errors: one UserError with the problems of all arms.
    """
    problems: dict[str, list[str]] = {}
    called = naming.names(found)
    sources = _Sources(found, called, folder)
    made: dict[str, Run] = {}  # by identity
    for arm, name in zip(found, called, strict=True):
        try:
            run = _run(declared, arm, name, sources)
        except UserError as error:
            for line in _lines_of(error):
                problems.setdefault(line, []).append(name)
            continue
        final = (taken or {}).get(run.identity, name)
        sources.runs[name] = made.setdefault(run.identity, dataclasses.replace(run, name=final))
    if problems:
        raise UserError(_report(problems, len(found)))
    counts = Counter(run.name.lower() for run in made.values())
    return [run if counts[run.name.lower()] == 1 or run.identity in (taken or {}) else _other_name(run) for run in made.values()]


def _other_name(run: Run) -> Run:
    """Gives a run that is called as an earlier, different one another name."""
    if NAME in run.arm:
        raise UserError(f"{NAME}: another run of the folder is called {run.name}; call this one otherwise.")
    return dataclasses.replace(run, name=f"{run.name}-{config_lib.digest(run.config)[: naming.DIGEST]}")


def single(declared: Declaration, arm: Arm, name: str, folder: pathlib.Path) -> Run:
    """Returns one checked run under a given name, safe for a folder. Errors: UserError with its problems."""
    return _run(declared, arm, name, _Sources([], [], folder))


class _Sources:
    """Which run an arm's "@from" means: an arm of the sweep by its "@name", or a folder.

    Of several arms of one "@name", such as those of a product with a grid or with seeds, it is the one that agrees with the branch in the
    settings by which they differ.
    """

    def __init__(self, found: Sequence[Arm], called: Sequence[str], folder: pathlib.Path):
        self.pairs, self.folder = list(zip(found, called, strict=True)), folder
        self.runs: dict[str, Run] = {}  # of the arms before, by what they were called here

    def of(self, arm: Arm) -> tuple[str, Any]:
        """Returns (what `Run.source` says, config of the run that it means)."""
        where, at, step = str(arm[FROM]).rpartition("@")
        if not at or not step.isdecimal():
            raise UserError(f'{FROM}: got "{arm[FROM]}", expected the name of an arm or a run\'s folder, "@", and a step.')
        if named := [(other, name) for other, name in self.pairs if other.get(NAME) == where]:
            name = self._trunk(arm, where, named)
            if name not in self.runs:
                raise UserError(f"{FROM}: {name} must come before the arms that go on from it, and be right itself.")
            return f"{self.runs[name].name}@{step}", self.runs[name].config
        saved = pathlib.Path(where).absolute() / "config.json"
        if not saved.is_file():
            known = [str(other[NAME]) for other, _ in self.pairs if NAME in other]
            raise UserError(f'{FROM}: "{where}" is neither an arm\'s "@name" nor the folder of a run.{nearest(where, known)}')
        ours = saved.parent.parent.resolve() == (self.folder / "runs").resolve()
        return f"{saved.parent.name if ours else saved.parent}@{step}", config_lib.from_json(saved.read_text())

    def _trunk(self, arm: Arm, where: str, named: Sequence[tuple[Arm, str]]) -> str:
        """Returns what the one arm is called, of those named so, that a branch goes on from. Errors: UserError for none or several."""
        keys = [key for key in naming.differing([other for other, _ in named]) if key not in TRUNK_MAY_DIFFER]
        fit = [(other, name) for other, name in named if all(other.get(key) == arm[key] for key in keys if key in arm)]
        if len(_distinct(other for other, _ in fit)) == 1:
            return fit[0][1]
        several = ", ".join(name for _, name in named[:MOST_NAMED]) + (", ..." if len(named) > MOST_NAMED else "")
        lacking = ", ".join(key for key in keys if key not in arm)
        if not fit:
            what = f"none of them has {', '.join(f'{key}={naming.short(arm[key])}' for key in keys if key in arm)}, as what goes on from it"
        elif lacking:
            what = f"say {lacking} of what goes on from it too, as a product with the same grid does"
        else:
            what = "they differ only by what a branch sets itself: give each a name of its own"
        raise UserError(f'{FROM}: "{where}" is {len(named)} arms ({several}): {what}.')


def _run(declared: Declaration, arm: Arm, name: str, sources: _Sources) -> Run:
    """Completes and checks one arm."""
    overrides = (*declared.common, *overrides_of(arm))
    if unknown := [key for key in arm if key[0] == "@" and key not in (NAME, FROM)]:
        raise UserError(f"{unknown[0]} is not known.{nearest(unknown[0], (NAME, FROM))}")
    source, theirs = sources.of(arm) if FROM in arm else ("", None)
    if declared.spec:
        spec = spec_of(declared.spec, arm)
        config = config_lib.resolve(_file(spec), list(overrides), spec)
    elif source:
        spec, config = "", config_lib.resolve(json.loads(config_lib.to_json(theirs)), list(overrides), source)
    else:
        raise UserError("say --config=FILE.")
    changed = config_lib.differences(theirs, config) if source else []
    if wrong := [line for line in changed if not line.startswith(BRANCH_MAY_CHANGE)]:
        may = ", ".join(BRANCH_MAY_CHANGE)
        lines = [f"  - {FROM}: {source} has another {line}; what goes on from it may change only {may}" for line in wrong]
        raise UserError("\n".join(lines))
    return Run(name, arm, spec, overrides, source, config)


@functools.lru_cache(maxsize=1024)
def _read(spec: str) -> dict:
    return config_lib.read_file(spec)


def _file(spec: str) -> dict:
    return copy.deepcopy(_read(spec))


def _distinct(found: Iterable[Arm]) -> list[Arm]:
    return list({json.dumps(arm, sort_keys=True, default=repr): arm for arm in found}.values())


def _flat(key: str, value: Any) -> list[str]:
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        inner = {**{k: v for k, v in value.items() if k != "kw"}, **{f"kw.{k}": v for k, v in (value.get("kw") or {}).items()}}
        return [text for k, v in inner.items() for text in _flat(f"{key}.{k}", v)]
    return [f"{key}={_text(value)}"]


def _text(value: Any) -> str:
    value = value.item() if hasattr(value, "item") and not isinstance(value, dict) else value  # of numpy
    return value if isinstance(value, str) else repr(value)


def split(text: str) -> list[str]:
    """Splits at commas, but for those inside brackets or quotes."""
    return [part.strip() for part in re.findall(r"(?:[^,(\[{'\"]|\([^)]*\)|\[[^\]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\")+", text)]


def _axis(flag: str, text: str) -> tuple[str, list[Any]]:
    key, equals, given = text.partition("=")
    found = [typed.literal(part) for part in split(given)]
    if not equals or not key or not found:
        raise UserError(f"{flag}: got {text!r}, expected setting=value,value, such as lr=1e-4,3e-4.")
    return key.removeprefix("config."), found


def _distribution(text: str) -> tuple[str, Distribution | Choice]:
    match = re.fullmatch(r"([^=]+)=(\w+)\((.*)\)", text.strip())
    if not match:
        raise UserError(f"--random: got {text!r}, expected setting=distribution, such as lr=loguniform(1e-5,1e-2).")
    key, name, arguments = match.groups()
    if name not in DISTRIBUTIONS:
        raise UserError(f'--random: {key}: "{name}" is not known.{nearest(name, DISTRIBUTIONS)} Known: {", ".join(DISTRIBUTIONS)}.')
    given = [typed.literal(part) for part in split(arguments)]
    try:
        return key.removeprefix("config."), DISTRIBUTIONS[name](*given)
    except TypeError:
        raise UserError(f"--random: {text}: expected {name}(low,high), two numbers.") from None


def _lines_of(error: UserError) -> list[str]:
    """Returns the problems that a config's error lists, without its head."""
    lines = str(error).split("\n")
    listed = [line.removeprefix("  - ") for line in lines if line.startswith("  - ")]
    return listed or [str(error)]


def _report(problems: Mapping[str, list[str]], count: int) -> str:
    lines = [f"the sweep has {len(problems)} problem{'s' if len(problems) > 1 else ''}:"]
    for line, names in problems.items():
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        who = f"all {count} runs" if len(names) == count and count > 1 else f"{', '.join(names[:MOST_NAMED])}{more}"
        lines.append(f"  - {line} ({who})")
    return "\n".join(lines)
