"""Automatic search by Optuna: it proposes settings and says which runs to give up; runs, folders and slots are those of every sweep.

A trial is a run. Whoever has it in hand holds its claim (see `folder.py`), so a trial whose worker was killed is known by its free claim,
and the next worker goes on with it: the same trial, the same settings, from the run's own checkpoint. Optuna's heartbeats, which only
relational stores have and which give such a trial up, are not used. Asking for a trial happens under the folder's lock, so that there are
never more trials than were asked for, whatever number of workers asks. All workers share the folder, also where the study is in a database.
"""

import dataclasses
import math
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from decoder_lab.core import lock
from decoder_lab.core.errors import UserError, unknown
from decoder_lab.sweep import algebra, declaration
from decoder_lab.sweep import folder as folders
from decoder_lab.sweep.algebra import Arm, Choice, Distribution
from decoder_lab.sweep.declaration import Declaration
from decoder_lab.sweep.folder import Claim, Folder, Record
from decoder_lab.sweep.following import Following, Objective
from decoder_lab.sweep.naming import LONGEST, labels, safe, short

SAMPLERS = ("tpe", "random", "nsga2", "qmc")
PRUNERS = ("none", "asha", "hyperband", "median")
ARM = "arm"  # the parameter that chooses among the declared arms, where there are several
JOURNAL = "study.journal"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to search; plain data, kept in the sweep's folder so that a worker that joins has the same.

    Attributes:
      sampler, pruner: of SAMPLERS and PRUNERS.
      trials: how many in all, those of other workers included.
      storage: a URL that Optuna knows, such as postgresql://...; empty: a journal file in the folder.
      study: its name in the store.
      seed: of the sampler.
    """

    sampler: str = "tpe"
    pruner: str = "none"
    trials: int = 20
    storage: str = ""
    study: str = "sweep"
    seed: int = 0

    def check(self, objectives: Sequence[Objective]) -> None:
        """Errors: UserError for an unknown name, no trials, or a pruner with several objectives, which Optuna has not."""
        if self.sampler not in SAMPLERS:
            raise UserError(unknown("--search", self.sampler, SAMPLERS))
        if self.pruner not in PRUNERS:
            raise UserError(unknown("--pruner", self.pruner, PRUNERS))
        if self.trials < 1:
            raise UserError(f"--trials: got {self.trials}, expected 1 or more.")
        if len(objectives) > 1 and self.pruner != "none":
            raise UserError("--pruner: with several objectives no run can be given up; say --pruner=none.")


def space_of(declared: Declaration, folder: pathlib.Path) -> list[Arm]:
    """Returns the arms to search, checked at the ends of every distribution and at every choice. Errors: UserError with all problems."""
    found = declaration.open_arms(declared, searching=True)
    if not any(algebra.is_open(arm) for arm in found) and len(found) < 2:
        raise UserError("--search: nothing is searched: give --random 'lr=loguniform(1e-5,1e-2)' or --grid, or a sweep() in the config.")
    if declared.seeds or declared.num:
        raise UserError("--search: every trial draws its own values and has a seed of its own: leave --seeds and --num out.")
    declaration.runs(declared, [corner for arm in found for corner in corners(arm)], folder)
    return found


def corners(arm: Arm) -> Iterator[Arm]:
    """Yields the arm with all distributions at their first end, and with each at each other end in turn."""
    ends = {key: value.ends() for key, value in arm.items() if isinstance(value, Distribution | Choice)}
    first = {**arm, **{key: values[0] for key, values in ends.items()}}
    yield first
    for key, values in ends.items():
        yield from ({**first, key: value} for value in values[1:])


def check_objectives(objectives: Sequence[Objective], before: Sequence[dict] | None) -> None:
    """Errors: UserError where a study was begun with other objectives: its trials' values are of those."""
    if before and (was := [Objective(**plain) for plain in before]) != list(objectives):
        had, got = ("; ".join(f"{o.name}, {o.mode}, {o.value}" for o in found) for found in (was, objectives))
        raise UserError(f"--objective, --direction, --value: the study was begun with {had}; got {got}. Leave them out, or take another.")


def study_of(settings: Settings, folder: Folder, objectives: Sequence[Objective]) -> Any:
    """Opens the study, or begins it. Errors: UserError where Optuna is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("--search needs the package optuna: pip install 'decoder_lab[sweep]', or pip install optuna.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage: Any = settings.storage
    if not storage:
        from optuna.storages import journal

        folder.root.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(folder.root / JOURNAL)))
    directions = ["minimize" if o.mode == "min" else "maximize" for o in objectives]
    made = dict(study_name=settings.study, directions=directions, load_if_exists=True)
    return optuna.create_study(storage=storage, sampler=sampler(settings, 0), pruner=pruner(settings.pruner), **made)


def sampler(settings: Settings, number: int) -> Any:
    """Returns the sampler that proposes trial `number`: what it draws is a function of the seed, the number and the trials before."""
    from optuna import samplers

    seed = settings.seed * 1_000_003 + number
    made = {
        "tpe": lambda seed: samplers.TPESampler(seed=seed, constant_liar=True),  # what other workers try counts too
        "random": samplers.RandomSampler,
        "nsga2": samplers.NSGAIISampler,
        "qmc": lambda seed: samplers.QMCSampler(seed=settings.seed, scramble=True, warn_independent_sampling=False),
    }
    return made[settings.sampler](seed=seed)


def pruner(name: str) -> Any:
    """Returns the rule by which a run is given up. Its steps are the run's evaluations, counted from 1."""
    from optuna import pruners

    made = {
        "none": pruners.NopPruner,
        "asha": lambda: pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=1, reduction_factor=3),
        "median": pruners.MedianPruner,
    }
    return made[name]()


def suggest(trial: Any, arms: Sequence[Arm]) -> Arm:
    """Returns the arm that a trial stands for; asked again, it says the same.

    A parameter of a study has one distribution: where the arms have several of one setting, each has a parameter of its own.
    """
    number = trial.suggest_categorical(ARM, list(range(len(arms)))) if len(arms) > 1 else 0
    found = {}
    for key, value in arms[number].items():
        spread = {repr(arm[key]) for arm in arms if isinstance(arm.get(key), Distribution | Choice)}
        name = key if len(spread) == 1 else f"{number}:{key}"
        if isinstance(value, Choice):
            plain = all(isinstance(v, str | int | float | bool) or v is None for v in value.values)
            options = list(value.values) if plain else list(range(len(value.values)))
            picked = trial.suggest_categorical(name, options)
            found[key] = picked if plain else value.values[picked]
        elif isinstance(value, Distribution) and value.kind == "integers":
            found[key] = trial.suggest_int(name, int(value.low), int(value.high))
        elif isinstance(value, Distribution):
            found[key] = trial.suggest_float(name, value.low, value.high, log=value.kind == "loguniform")
        else:
            found[key] = value
    return found


class Search:
    """The trials of a study as jobs for the scheduler."""

    def __init__(self, folder: Folder, declared: Declaration, settings: Settings, objectives: Sequence[Objective]):
        settings.check(objectives)
        self.folder, self.declared, self.settings, self.objectives = folder, declared, settings, tuple(objectives)
        self.arms = space_of(declared, folder.root)
        self.study = study_of(settings, folder, objectives)
        self._trials: dict[str, Any] = {}  # in hand
        self._following: dict[str, Following] = {}
        self._stopped: set[int] = set()
        with folder.alone():
            self._mend()

    def next(self) -> tuple[Record, Claim] | None:
        import optuna

        with self.folder.alone():
            records = {r.trial: r for r in self.folder.records().values()}
            trials = self.study.get_trials(deepcopy=False)
            for frozen in trials:
                if frozen.state == optuna.trial.TrialState.RUNNING and frozen.number not in self._stopped:
                    if taken := self._take_over(frozen, records.get(frozen.number)):
                        return taken
            while len(trials) < self.settings.trials:
                self.study.sampler = sampler(self.settings, len(trials))
                if taken := self._begin(self.study.ask(), len(trials)):
                    return taken
                trials = self.study.get_trials(deepcopy=False)
        return None

    def finished(self) -> bool:
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        left = [t for t in trials if t.state == optuna.trial.TrialState.RUNNING and t.number not in self._stopped]
        return len(trials) >= self.settings.trials and not left

    def watch(self, record: Record) -> bool:
        if len(self.objectives) > 1 or not self._report(record):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, where a run has nothing but nan
            return self._trials[record.name].should_prune()

    def _report(self, record: Record) -> int:
        """Tells the study the evaluations that it does not know yet, counted from 1; returns how many there are."""
        name = self.objectives[0].name
        following = self._following.setdefault(record.name, Following(self.folder.workdir(record.name) / "metrics.jsonl", [name])).read()
        known = self.study.get_trials(deepcopy=False)[record.trial].intermediate_values
        values = [v for step, v in sorted(following.values[name].items()) if step > 0]
        for i, value in enumerate(values, start=1):
            if i not in known:  # what is no number too: the pruners give such a run up
                self._trials[record.name].report(value, i)
        return len(values)

    def ended(self, record: Record) -> Record:
        """Tells the study. A run that was stopped stays a running trial, for a worker to go on with."""
        import optuna

        if record.name in self._trials and len(self.objectives) == 1:
            self._report(record)  # what came since the last look: others are compared with it
        states = {folders.FAILED: optuna.trial.TrialState.FAIL, folders.PRUNED: optuna.trial.TrialState.PRUNED}
        if record.status == folders.STOPPED:
            self._stopped.add(record.trial)
        elif record.status in states:
            self.study.tell(record.trial, state=states[record.status])
        elif record.status == folders.DONE:
            following = Following(self.folder.workdir(record.name) / "metrics.jsonl", [o.name for o in self.objectives]).read()
            values = [o.of(following.series(o.name)) for o in self.objectives]
            lacking = [o.name for o, v in zip(self.objectives, values, strict=True) if v is None or math.isnan(v)]
            if lacking or following.unreadable:
                self.study.tell(record.trial, state=optuna.trial.TrialState.FAIL)
                reason = f"error: it has no {', '.join(lacking)} that is a number in its metrics.jsonl"
                reason = f"error: {following.unreadable} cannot be read" if following.unreadable else reason
                record = dataclasses.replace(record, status=folders.FAILED, reason=(reason,))
            else:
                self.study.tell(record.trial, values)
        self._trials.pop(record.name, None)
        return record

    def _take_over(self, frozen: Any, record: Record | None) -> tuple[Record, Claim] | None:
        """Takes a trial in hand that nobody has, its worker having been killed; one that came to its end is only told."""
        import optuna

        trial = optuna.trial.Trial(self.study, frozen._trial_id)  # the way to go on with a trial, though Optuna has no public one
        if record is None:  # killed between asking and writing it down: its values so far are kept in the study
            return self._begin(trial, frozen.number)
        if record.name in self._trials:
            return None
        claim = self.folder.claim(record.name)
        if claim is None:
            return None
        record = self.folder.record(record.name)
        if record.status in folders.ENDED:
            self.folder.write(self.ended(record))
        elif not lock.held_here(self.folder.workdir(record.name)):
            self._trials[record.name] = trial
            return record, claim
        claim.release()
        return None

    def _begin(self, trial: Any, number: int) -> tuple[Record, Claim] | None:
        """Makes a run of a new trial. Settings that do not go together make a failed one."""
        arm = suggest(trial, self.arms)
        keys = [k for k in arm if any(a.get(k) != arm[k] for a in self.arms) and k != algebra.NAME]
        called = labels(keys)
        name = safe("_".join([f"{number:03d}", *(f"{called[k]}={short(arm[k])}" for k in keys)]))[:LONGEST]
        if "seed" not in arm and not any(text.startswith("seed=") for text in self.declared.common):
            arm = {**arm, "seed": number}
        try:
            run = declaration.single(self.declared, arm, name, self.folder.root)
        except UserError as error:
            record = Record(name, number, arm, self.declared.spec, (), status=folders.FAILED, exit_code=2, trial=number)
            self.folder.write(self.ended(dataclasses.replace(record, reason=tuple(f"error: {error}".splitlines()))))
            return None
        total = run.config.total_steps if run.config.total_epochs is None else None
        about = dict(source=run.source, identity=run.identity, total_steps=total, trial=number)
        record = Record(run.name, number, run.arm, run.spec, run.overrides, **about)
        claim = self.folder.claim(record.name)
        self.folder.write(record)
        self._trials[record.name] = trial
        return record, claim

    def _mend(self) -> None:
        """Writes down what became of runs whose worker was killed between telling the study and writing it down itself."""
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        status = {optuna.trial.TrialState.FAIL: folders.FAILED, optuna.trial.TrialState.PRUNED: folders.PRUNED}
        for record in self.folder.records().values():
            frozen = trials[record.trial] if record.trial is not None and record.trial < len(trials) else None
            if frozen is not None and frozen.state in status and record.status not in folders.ENDED:
                self.folder.write(dataclasses.replace(record, status=status[frozen.state]))

    def summary(self) -> list[str]:
        """Returns a line for each trial that no other is better than."""
        names = {r.trial: r.name for r in self.folder.records().values()}
        import optuna

        if not any(t.state == optuna.trial.TrialState.COMPLETE for t in self.study.get_trials(deepcopy=False)):
            return []
        lines = []
        for trial in self.study.best_trials:
            numbers = ", ".join(f"{o.name} {v:.6g}" for o, v in zip(self.objectives, trial.values, strict=True))
            lines.append(f"best: {names.get(trial.number, trial.number)}: {numbers}")
        return lines
