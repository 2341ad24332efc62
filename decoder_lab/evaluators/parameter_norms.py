"""How large parameters, gradients and updates are, layer by layer: where a network learns, and where it stands still or runs away."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core import tree
from decoder_lab.parallel import mesh as meshes

STACKED = "layers/block/"  # parameters below it have a leading axis of layers
MOST_VALUES = 100_000  # of a layer that a histogram counts, evenly spread


@dataclasses.dataclass
class Evaluator:
    """Euclidean norms by layer of the trained parameters, of the mean gradient and of the update that the next step would make.

    The gradient is that of the next training batch, so the cost is one step of training, and one more program to compile. Gives the
    detail "norms"; the numbers "parameters", "gradients" and "updates", norms over all layers; "update_ratio", the largest over the layers
    of update over parameters (about 1e-3 for a network that learns well); and the detail "histograms" of the parameters' values.

    Attributes:
      context: given by the lab.
      histogram_bins: of each layer's histogram; 0 leaves the histograms out.
    """

    context: Any
    histogram_bins: int = 40

    @functools.cached_property
    def _norms(self) -> Callable:
        context = self.context

        def norms(state: Any, batch: dict) -> list[dict]:
            return [by_layer(part, _square_sum) for part in (state.params, *context.next_update(state, batch))]

        return context.compiled(norms)

    @functools.cached_property
    def _values(self) -> Callable:
        return self.context.compiled(lambda params: by_layer(params, _sample))

    def run(self, state: Any) -> dict[str, Any]:
        """Returns {name: number} and the details."""
        squares = meshes.fetch(self._norms(state, self.context.training_batch(int(state.step))), self.context.mesh)
        names = sorted(squares[0], key=_in_order)
        parameters, gradients, updates = ([float(np.sqrt(sum(found[name]))) for name in names] for found in squares)
        ratios = [u / p for u, p in zip(updates, parameters, strict=True) if p > 0]
        found: dict[str, Any] = {
            name: float(np.linalg.norm(values))
            for name, values in (("parameters", parameters), ("gradients", gradients), ("updates", updates))
        }
        found["update_ratio"] = max(ratios, default=0.0)
        found["norms"] = dict(kind="norms", groups=names, parameters=parameters, gradients=gradients, updates=updates)
        if self.histogram_bins:
            values = meshes.fetch(self._values(state.params), self.context.mesh)
            bins = {name: _histogram(np.concatenate(values[name]), self.histogram_bins) for name in names}
            found["histograms"] = dict(kind="histograms", groups=bins)
        return found


def problems(kw) -> list[str]:
    """Bins are counted from 0."""
    return [f"histogram_bins: got {kw['histogram_bins']}, expected 0 or more."] if kw["histogram_bins"] < 0 else []


def by_layer(params: Any, measure: Callable[[jax.Array], jax.Array]) -> dict[str, list[jax.Array]]:
    """Returns {layer: [measure(array) of each of its arrays]}, stacked layers taken apart; a layer is a place such as decoder/layer_3."""
    found: dict[str, list[jax.Array]] = {}
    for path, leaf in tree.flatten(params).items():
        before, stacked, _ = path.partition(STACKED)
        if stacked:
            measured = jax.vmap(measure)(leaf)
            for i in range(len(leaf)):
                found.setdefault(f"{before}layer_{i}", []).append(measured[i])
        else:
            found.setdefault(layer_of(path), []).append(measure(leaf))
    return found


def layer_of(path: str) -> str:
    """Returns the layer that a parameter belongs to: the path up to its first numbered part, or what stands above it, two parts at most."""
    parts = path.split("/")
    numbered = [i for i, part in enumerate(parts) if re.search(r"_\d+$", part)]
    return "/".join(parts[: numbered[0] + 1] if numbered else parts[: min(2, max(1, len(parts) - 1))])


def _in_order(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts layer_10 after layer_9, embeddings before layers and what else there is behind them, at every depth."""
    found = []
    for part in name.split("/"):
        number = re.search(r"_(\d+)$", part)
        rank = 0 if "embed" in part else 1 if number or part in ("encoder", "decoder") else 2
        found.append((rank, int(number[1]) if number else 0, {"encoder": "", "decoder": "x"}.get(part, part)))
    return found


def _square_sum(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x.astype(jnp.float32)))


def _sample(x: jax.Array) -> jax.Array:
    return x.reshape(-1)[:: -(-x.size // MOST_VALUES)]


def _histogram(values: np.ndarray, bins: int) -> dict[str, list]:
    values = values[np.isfinite(values)]
    counts, edges = np.histogram(values, bins) if len(values) else (np.zeros(bins, int), np.linspace(0, 1, bins + 1))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def numbers(kw, task) -> list[str]:
    """Of all layers together."""
    return ["parameters", "gradients", "updates", "update_ratio"]
