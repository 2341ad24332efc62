"""Saving, keeping and restoring the states of one run.

`save` returns as soon as the arrays are copied; the rest happens behind the training step. The newest `keep` checkpoints and the
`keep_best` best ones stay. Every byte of a checkpoint is checked before it is restored: a damaged one is reported in one line and the one
before it is used.

With several processes all of them call everything here together. Each writes what it holds; process 0 decides what is there, what stays and
what is dropped, and an error of one is an error of all: no process goes on as if a save had succeeded that failed elsewhere.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from decoder_lab.checkpoint import snapshot, together
from decoder_lab.checkpoint.shelf import Shelf
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import processes

LOOKS = 5  # at which checkpoints there are, while another process drops them


class Saver:
    """The checkpoints of one directory. One run writes; any number may read.

    Args:
      directory: made by the first save.
      keep: how many of the newest stay (at least 1).
      keep_best: how many of the best by `metric` stay besides; needs `metrics` with that name at each `save` that is to compete.
      metric, mode: the name of a number in `metrics`, and whether a lower ("min") or a higher ("max") one is better. Equal: the earlier.
      report: takes one line about a damaged checkpoint, a save that failed, or what was dropped.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        keep: int = 1,
        keep_best: int = 0,
        metric: str = "",
        mode: Literal["min", "max"] = "min",
        report: Callable[[str], None] = print,
    ):
        self.directory = pathlib.Path(directory).absolute()
        self.report = report
        self.blocked_seconds = 0.0  # how long all calls of `save` and `wait` have held up their caller
        self.saves = 0  # how many were begun
        self._shelf = Shelf(self.directory, keep, keep_best, metric, mode, report)
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: concurrent.futures.Future | None = None
        self._failure: UserError | None = None
        self._own: set[int] = set()  # steps that this saver wrote or restored: their checkpoints hold what the run holds

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, oldest first; their contents are checked only by `restore`."""
        return self._shelf.steps()

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the numbers that the checkpoint of a step was saved with."""
        return snapshot.read_record(self._shelf.path(step))["metrics"]

    def save(self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float] | None = None, wait: bool = False) -> float:
        """Starts saving the state after `step` updates; returns the seconds that the caller was held up.

        `state` is any pytree of arrays, typed keys and numbers; `meta` is plain JSON (data position, best so far, config, versions), saved
        with it or not at all. A step that this saver has saved or restored already is not saved again. Checkpoints after `step` belong to a
        future that was given up by restoring an earlier step: they are dropped once this one is complete.

        Errors: UserError if the directory holds other steps and this saver restored none of them. A failure such as a full disk is
        reported, older checkpoints stay, and the next save tries again; `save(wait=True)`, `wait` and `close` raise the last one's.
        """
        began = time.perf_counter()
        json.dumps([meta, metrics])  # what cannot be saved shall fail here, in the caller
        self._join()
        if step not in self._own:
            self._refuse_to_mix(step)
            self.saves += 1
            self._start(step, state, meta, {name: float(value) for name, value in (metrics or {}).items()})
        blocked = time.perf_counter() - began
        self.blocked_seconds += blocked
        if wait:
            blocked += self.wait()
        return blocked

    def restore(self, template: Any, step: int | str | None = None) -> tuple[Any, dict[str, Any], int]:
        """Returns (state, meta, step) of the "latest" (or None), the "best", or one given step.

        The state has the template's structure and shardings; every bit is the one that was saved. A template leaf is an array or a
        `jax.ShapeDtypeStruct`. Errors: UserError if no checkpoint is intact, or if paths, shapes or dtypes differ from the template's.
        """
        chosen, record = self._choose(step)
        leaves, structure = jax.tree.flatten(template)
        wanted = dict(zip(tree.flatten(template), (_wanted(leaf) for leaf in leaves), strict=True))
        stored = {path: jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for path, (dtype, shape) in record["arrays"].items()}
        if lines := tree.diff(_forms(wanted), stored):
            listing = "\n".join(f"  {line}" for line in lines)
            raise UserError(
                f"checkpoint {self._shelf.path(chosen)} does not fit this run (expected: this run; got: the checkpoint):\n{listing}\n"
                "Resume with the config that wrote it, or load a part of it with init_from."
            )
        arrays = snapshot.load(self._shelf.path(chosen), wanted)
        state = jax.tree.unflatten(structure, [_like(leaf, arrays[path]) for leaf, path in zip(leaves, wanted, strict=True)])
        self._own = {chosen}
        return state, record["meta"], chosen

    def restore_params(
        self, step: int | str | None = None, names: tuple[str, ...] = ("params", "ema")
    ) -> tuple[dict[str, Any], dict[str, Any], int]:
        """Returns ({"params": ..., "ema": ...}, meta, step) as nested dicts of numpy arrays; needs no template, reads no optimiser state.

        What the checkpoint does not hold of `names` is left out. Errors: UserError if none is intact, or the first name is not in it.
        """
        chosen, record = self._choose(step)
        stored = {path: form for path, form in record["arrays"].items() if path.split("/")[0] in names}
        if not any(path.split("/")[0] == names[0] for path in stored):
            held = sorted({path.split("/")[0] for path in record["arrays"]})
            raise UserError(f'checkpoint {self._shelf.path(chosen)} holds no "{names[0]}"; it holds {", ".join(held)}.')
        wanted = {path: np.empty(shape, np.dtype(dtype)) for path, (dtype, shape) in stored.items()}
        return tree.nest(snapshot.load(self._shelf.path(chosen), wanted)), record["meta"], chosen

    def wait(self) -> float:
        """Waits until the last save is complete; returns the seconds that took. Errors: UserError if it failed."""
        began = time.perf_counter()
        self._join()
        waited = time.perf_counter() - began
        self.blocked_seconds += waited
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return waited

    def close(self) -> None:
        """Waits for the last save. Errors: UserError if it failed, so that a run never ends well with its end unsaved."""
        self.wait()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(Exception):  # a failed save was reported; the error that ends the run is the one to show
                self._join()

    # --- writing ---

    def _start(self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float]) -> None:
        temporary = self._shelf.temporary(step)
        self._failure = None
        if problem := together.make_room(self._shelf, temporary):
            self._fail(step, problem)
            return
        arrays = snapshot.arrays_of(state)
        forms = {path: snapshot.form(a) for path, a in arrays.items()}
        try:
            response = snapshot.start(temporary, arrays)
        except (OSError, ValueError) as error:  # Orbax wraps a full disk in a ValueError
            response = concurrent.futures.Future()
            response.set_exception(error)
        about = dict(step=step, metrics=metrics, meta=meta)
        self._writing = self._executor.submit(self._finish, response, step, temporary, forms, about)

    def _finish(self, response: Any, step: int, temporary: pathlib.Path, forms: dict[str, Any], about: dict[str, Any]) -> None:
        """In the background."""
        problem = together.complete(self._shelf, response, step, temporary, forms, about)
        if not problem:
            self._own.add(step)
            if (left := together.keep(self._shelf, step)) and processes.first():
                self.report(f"checkpoint {step} is saved; others could not be dropped: {left[: together.MOST_ERROR_CHARACTERS]}")
        else:
            self._fail(step, problem)

    def _fail(self, step: int, problem: str) -> None:
        self._failure = UserError(
            f"checkpoint {step} in {self.directory} could not be saved: {problem[: together.MOST_ERROR_CHARACTERS]}. Is the disk full? "
            "Older checkpoints are intact."
        )
        if processes.first():
            shutil.rmtree(self._shelf.temporary(step), ignore_errors=True)
            self.report(str(self._failure))

    def _refuse_to_mix(self, step: int) -> None:
        """A run that starts anew among another run's checkpoints would later be resumed from the other's, or drop them."""
        others = [] if self._own else [s for s in processes.share("checkpoints there", self.steps()) if s != step]
        if others:
            raise UserError(
                f"{self.directory} holds checkpoints (steps {others}) that this run did not restore; step {step} may not be saved among "
                "them. Resume from them, or use another workdir."
            )

    def _join(self) -> None:
        """Waits for the writing thread; a failure was reported by it and is kept for `wait`, anything else it raised is raised here."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    # --- reading ---

    def _choose(self, step: int | str | None, looks: int = LOOKS) -> tuple[int, dict[str, Any]]:
        """Returns (step, record) of the first intact one of those that `step` stands for."""
        self._join()
        step = "latest" if step is None else step
        candidates = processes.share("checkpoints", self._shelf.candidates(step) if processes.first() else None)
        for candidate in candidates:
            record, damage = together.check(self._shelf.path(candidate))
            if not damage:
                return candidate, record
            if looks > 1 and not processes.share("checkpoint there", self._shelf.path(candidate).is_dir()):
                return self._choose(step, looks - 1)  # a run beside this one has just dropped it, and has a newer one
            self._shelf.damaged.add(candidate)
            rest = "" if candidate == candidates[-1] else "; using the one before it"
            self.report(f"checkpoint {candidate} in {self.directory} is damaged: {damage}{rest}")
        raise UserError(
            f"{self.directory}: of the checkpoints {sorted(candidates)} none is intact. Name another step, bring them back from a copy, or "
            "start again in another workdir."
        )


def _wanted(leaf: Any) -> Any:
    """Returns what to load for a template leaf: a numpy array, or the shape, dtype and sharding of a jax one."""
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return np.asarray(leaf)
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    data = jax.eval_shape(jax.random.key_data, leaf) if snapshot.is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def _like(leaf: Any, array: Any) -> Any:
    """Returns a loaded array as the kind of thing that the template leaf is."""
    if snapshot.is_key(leaf):
        found: list[Any] = []
        jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)  # key_impl takes no ShapeDtypeStruct by itself
        return jax.random.wrap_key_data(array, impl=found[0])
    return type(leaf)(array.item()) if isinstance(leaf, bool | int | float) else array


def _forms(wanted: dict[str, Any]) -> dict[str, Any]:
    return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in wanted.items()}
