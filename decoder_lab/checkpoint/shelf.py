"""The checkpoints of a directory: which there are, which is the best, which stay."""

import math
import pathlib
import shutil
import uuid
from collections.abc import Callable

from decoder_lab.checkpoint import snapshot
from decoder_lab.core.errors import UserError

TEMPORARY = ".writing-"  # the beginning of a name that is being written; never read
DELETED = ".deleting-"  # ... and of one that is being deleted: a deletion, too, is seen wholly or not at all


class Shelf:
    """Checkpoint directories named by their step. See `saver.Saver` for the settings.

    Attributes:
      damaged: steps that were found damaged; they count neither among the newest nor among the best.
    """

    def __init__(self, directory: pathlib.Path, keep: int, keep_best: int, metric: str, mode: str, report: Callable[[str], None]):
        if keep < 1 or keep_best < 0 or (keep_best and not metric) or mode not in ("min", "max"):
            raise UserError(
                f'checkpoints: got keep={keep}, keep_best={keep_best}, metric="{metric}", mode="{mode}"; '
                'keep is at least 1, keep_best at least 0 and needs a metric, mode is "min" or "max".'
            )
        self.directory, self.keep, self.keep_best, self.metric, self.mode, self.report = directory, keep, keep_best, metric, mode, report
        self.damaged: set[int] = set()

    def path(self, step: int) -> pathlib.Path:
        return self.directory / str(step)

    def temporary(self, step: int) -> pathlib.Path:
        """Where a checkpoint lies while it is being written."""
        return self.directory / f"{TEMPORARY}{step}"

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, oldest first, damaged ones included."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdecimal())

    def ranked(self) -> list[int]:
        """Returns the steps that have the metric, best first; equal ones by step."""
        values = {}
        for step in self.steps():
            try:
                value = snapshot.read_record(self.path(step))["metrics"].get(self.metric, math.nan)
            except snapshot.Damaged:
                continue
            if step not in self.damaged and not math.isnan(value):
                values[step] = value if self.mode == "min" else -value
        return sorted(values, key=lambda step: (values[step], step))

    def candidates(self, step: int | str) -> list[int]:
        """Returns the steps to try, in order, for "latest", "best" or one step. Errors: UserError if there are none."""
        known = self.steps()
        if not known:
            raise UserError(f"{self.directory} holds no checkpoint.")
        if step == "latest":
            return known[::-1]
        if step == "best":
            if ranked := self.ranked():
                return ranked
            if len(known) == 1:  # the best of one, whatever was measured
                return known
            raise UserError(f'{self.directory}: no checkpoint has the metric "{self.metric}". Steps: {known}.')
        if step in known:
            return [int(step)]
        raise UserError(f'{self.directory} holds no checkpoint of step {step!r}. Known: {known}, "latest", "best".')

    def retain(self, step: int) -> None:
        """After `step` was written: keeps the newest and the best up to it, drops the rest and whatever lies after it."""
        self.damaged.discard(step)
        good = [s for s in self.steps() if s <= step and s not in self.damaged]
        kept = set(good[-self.keep :]) | set([s for s in self.ranked() if s <= step][: self.keep_best])
        for other in self.steps():
            if other > step:
                self.report(f"checkpoint {other} dropped: the run went on from an earlier step")
            if other > step or (other in good and other not in kept):
                self.drop(other)

    def drop(self, step: int) -> None:
        """Deletes a checkpoint. What cannot be deleted now, as somebody reads it, is deleted by a later `sweep`; that is said."""
        doomed = self._set_aside(self.path(step))
        shutil.rmtree(doomed, ignore_errors=True)
        if doomed.exists():
            self.report(f"checkpoint {step} is dropped, but its files could not all be deleted: {doomed}. The next save tries again")

    def sweep(self) -> None:
        """Removes what an earlier process left half-written or half-deleted. Readers may not: a save may be running."""
        for path in self.directory.iterdir():
            if path.name.startswith((TEMPORARY, DELETED)):
                shutil.rmtree(self._set_aside(path) if path.name.startswith(TEMPORARY) else path, ignore_errors=True)

    def _set_aside(self, path: pathlib.Path) -> pathlib.Path:
        """Gives what is to be deleted a name that nothing else needs, however long the deletion takes."""
        doomed = self.directory / f"{DELETED}{path.name}-{uuid.uuid4().hex[:8]}"
        path.rename(doomed)
        return doomed
