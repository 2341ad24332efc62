"""How many ranks each adapted matrix has in use: with AdaLoRA, where in the model the budget went."""

import dataclasses
from typing import Any

import numpy as np

from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes


@dataclasses.dataclass
class Evaluator:
    """Gives the number "total", ranks in use over all matrices, and the detail "ranks" of each.

    Attributes:
      context: given by the lab.
    """

    context: Any

    def run(self, state: Any) -> dict[str, Any]:
        """Returns {"total": number, "ranks": detail}. Errors: UserError where the ranks are fixed."""
        kept = tree.flatten(state.adapter.get("kept", {})) if isinstance(state.adapter, dict) else {}
        if not kept:
            raise UserError('evaluator adapter_ranks: no rank of this run changes; use it with --config.adapt.name="adalora".')
        names, ranks, most = [], [], []
        for path, kept_R in meshes.fetch(kept, self.context.mesh).items():
            name = path.rsplit("/", 1)[0]
            stacked = np.asarray(kept_R).reshape(-1, np.shape(kept_R)[-1])
            names += [name] if len(stacked) == 1 else [f"{name} {i}" for i in range(len(stacked))]
            ranks += [int(row.sum()) for row in stacked]
            most += [stacked.shape[1]] * len(stacked)
        return {"total": sum(ranks), "ranks": dict(kind="ranks", groups=names, ranks=ranks, most=most)}


def numbers(kw, task) -> list[str]:
    """All ranks in use."""
    return ["total"]
