"""The teacher of a task that learns from another run's model: that run, opened and compared with this one."""

import pathlib
from collections.abc import Mapping
from typing import Any

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.training.adaptation import fingerprint


def wanted(config: Any) -> bool:
    """Whether the config's task learns from a teacher."""
    return "teacher" in lookup.given("task", config.task.name)


def of(experiment: Any) -> Any:
    """Returns the experiment of the teacher's run, None where there is none. Errors: UserError where its tokenizers are others."""
    if not wanted(experiment.config):
        return None
    where = pathlib.Path(experiment.config.task.kw.workdir)
    other = experiment.of_run(where)
    for name in ("tokenizer", "source_tokenizer"):
        if getattr(other, name).fingerprint() != getattr(experiment, name).fingerprint():
            raise UserError(
                f"teacher: the {name} of {where} is not this run's, so its model speaks of other tokens. Use its data.tokenizer with the "
                "same settings and training text."
            )
    return other


def check(experiment: Any, other: Any) -> None:
    """Errors: UserError where the teacher's labels are not this run's, in this order."""
    ours, theirs = (getattr(run.task, "labels", ()) for run in (experiment, other))
    if ours != theirs:
        raise UserError(f"teacher: its labels are {', '.join(theirs) or 'none'}, this run's are {', '.join(ours) or 'none'}.")


def origin(other: Any, params: Any, step: int, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"workdir", "checkpoint", "fingerprint"} of the teacher, for a checkpoint. Errors: UserError where it is another one."""
    found = {"workdir": str(other.workdir), "checkpoint": step, "fingerprint": fingerprint(params)}
    if expected and expected["fingerprint"] != found["fingerprint"]:
        raise UserError(
            f"the teacher that this run learned from (step {expected['checkpoint']} of {expected['workdir']}) is no longer the same: "
            f"its fingerprint was {expected['fingerprint']} and is {found['fingerprint']}. Bring it back, or learn from the new one in "
            "another workdir."
        )
    return found
