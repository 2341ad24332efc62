"""BitFit (Ben Zaken et al. 2022): only the biases are trained, those of norms and of recurrent cells included."""

import dataclasses
from typing import Any

from decoder_lab.adapters import base
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError

BIAS = r"(^|/|candidate_|logits_)bias$"


@dataclasses.dataclass(frozen=True)
class Adapter(base.Adapter):
    """Adds nothing."""

    def trained(self, params: Any) -> set[str]:
        biases = {path for path, hit in tree.flatten(tree.mask(params, [BIAS])).items() if hit}
        if not biases:
            raise UserError("adapt: bitfit trains biases, and this model has none (use_bias=False). Take another method.")
        return biases | super().trained(params)

    def merge(self, params: Any) -> Any:
        return params

    def unmerge(self, merged: Any, params: Any) -> Any:
        return merged
