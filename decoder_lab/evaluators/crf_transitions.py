"""What a linear-chain CRF has learned of which tag follows which."""

import dataclasses
from typing import Any

import numpy as np

from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes


@dataclasses.dataclass
class Evaluator:
    """Gives the detail "scores": the learned scores of going from tag to tag, of beginning and of ending with one.

    Attributes:
      context: given by the lab.
    """

    context: Any

    def run(self, state: Any) -> dict[str, Any]:
        """Returns {"scores": detail}. Errors: UserError where the model has no CRF."""
        flat = tree.flatten(self.context.params(state))
        found = {part: flat[path] for path in flat for part in ("between", "start", "end") if path.split("/")[-1] == f"crf_{part}"}
        if len(found) != 3:
            raise UserError("evaluator crf_transitions: the model has no CRF; use it with a tagger, --config.model.kw.crf=true.")
        scores = {part: np.asarray(x, np.float64).tolist() for part, x in meshes.fetch(found, self.context.mesh).items()}
        return {"scores": dict(kind="transitions", labels=list(self.context.task.tags), **scores)}


def numbers(kw, task) -> list[str]:
    """None: it shows something."""
    return []
