"""The attention weights that a model hands out: from the collection "attention", which its modules sow on demand, to arrays by layer.

A module `cross_attention` looks at the source, `attention` at the text itself or, in a recurrent decoder, which has no other, at the
source. Scanned layers are sown with a leading axis L.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from decoder_lab.core import writer
from decoder_lab.core.errors import UserError

SOURCE, SELF = "cross_attention", "attention"


def by_layer(sown: Mapping[str, Any], looks_at_source: bool) -> list[tuple[str, jax.Array]]:
    """Returns [(name of the layer, float32 weights_BNTS)], first layer first.

    Args:
      sown: the collection "attention" of one call of a decoder.
      looks_at_source: whether attention to the source is wanted, or that of the text to itself.
    """
    found = {tuple(str(key.key) for key in path if hasattr(key, "key")): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(sown)}
    across = {path: leaf for path, leaf in found.items() if SOURCE in path}
    within = {path: leaf for path, leaf in found.items() if SOURCE not in path and SELF in path}
    chosen = (across or within) if looks_at_source else within
    layers = []
    for path in sorted(chosen, key=_natural):
        weights, name = chosen[path], "/".join(part for part in path if part != "weights")
        stacked = weights.ndim == 5
        layers += [(f"{name}/{i}", weights[i]) for i in range(weights.shape[0])] if stacked else [(name, weights)]
    return layers


def to_source(sown: Mapping[str, Any]) -> jax.Array:
    """Returns weights_BTS of the last layer, the mean of its heads. Errors: UserError for a model without attention to its source."""
    layers = by_layer(sown, looks_at_source=True)
    if not layers:
        raise UserError(
            "this model has no attention to its source: a coverage penalty needs a decoder with attention, "
            "such as --config.model.kw.decoder.kw.attention=additive of a recurrent one. Leave coverage_penalty at 0."
        )
    return layers[-1][1].mean(axis=1)


def detail(
    layers: Sequence[tuple[str, np.ndarray]], rows: Sequence[str], columns: Sequence[str], text: str, digits: int = 4
) -> dict[str, Any]:
    """Returns weights_NTS of each layer as a report shows them (`core/writer/jsonl.py`), valid JSON also where they are not finite."""
    heads = [{"name": name, "heads": np.round(np.asarray(w_NTS, np.float64), digits).tolist()} for name, w_NTS in layers]
    return writer.plain({"kind": "attention", "text": text, "rows": rows, "columns": columns, "layers": heads})


def _natural(path: tuple[str, ...]) -> list:
    """Sorts layer_10 behind layer_9."""
    return [[int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)] for name in path]
