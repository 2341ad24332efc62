"""An experiment's parameters in two parts: what is trained, and the rest of the model, which nothing changes.

Without an adapter all are trained and there is no rest. With one, the trained part is what the adapter adds and what it trains of the
model's own; a checkpoint holds that part alone, and says where the rest came from.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from decoder_lab.adapters import base
from decoder_lab.adapters.places import Place, survey
from decoder_lab.core import lookup, tree
from decoder_lab.core.errors import UserError
from decoder_lab.layers import transformer


def adapter_of(config: Any) -> base.Adapter | None:
    """Returns the adapter that the config asks for; None: there is none."""
    return None if config.adapt is None or config.adapt.get("name") is None else lookup.make("adapter", config.adapt)


def one_text_a_row(adapter: base.Adapter | None, experiment: Any) -> None:
    """Errors: UserError where an adapter puts something before each text, and rows hold several texts or places in them matter."""
    if adapter is None or not adapter.lengthens:
        return
    if getattr(adapter, "side", "") == "decoder":
        _places_stay(adapter, experiment.config.model.kw.get("decoder") or {})
    if not experiment.by_example and experiment.marks_texts:
        packing = experiment.config.data.packing.name
        raise UserError(
            f'adapt: {adapter.name} stands before a row\'s text, and rows of data.packing "{packing}" hold several. '
            'Use packing="split", a task of whole examples, or adapt="prefix", which every text of a row reads.'
        )


def _places_stay(adapter: base.Adapter, decoder: Any) -> None:
    """Errors: UserError where a target's places choose what is read of the source: local attention of a Transformer, or a recurrent one."""
    fields = decoder.get("kw") or {}
    for window, centre in (("cross_window", "cross_predict_centre"), ("window", "predict_centre")):
        if fields.get(window) is not None and fields.get(centre) is False:
            raise UserError(
                f"adapt: {adapter.name} before the target moves its places, by which decoder.kw.{window} chooses what is read of the "
                f'source. Use side="encoder", decoder.kw.{centre}=true, or adapt="prefix".'
            )


class Adaptation:
    """What an adapter means for one model.

    Attributes:
      adapter: None: everything is trained.
      origin: where the rest came from, {"workdir", "checkpoint", "fingerprint"}; {} before it is there, and without an adapter.
    """

    def __init__(self, adapter: base.Adapter | None, model: Any, task: Any, key: jax.Array):
        self.adapter, self._model, self._task, self._key = adapter, model, task, key
        self.origin: dict[str, Any] = {}

    @functools.cached_property
    def model(self) -> Any:
        """The model to compute with."""
        return self._model if self.adapter is None else base.Adapted(self._model, self.adapter)

    @functools.cached_property
    def base_shapes(self) -> Any:
        """Shapes of the model's own parameters."""
        return jax.eval_shape(lambda: self.draw(jax.random.key(0)))

    def draw(self, key: jax.Array, place: Callable[[Any], Any] | None = None) -> Any:
        """Returns fresh parameters of the model itself, laid out by `place`: tree of shapes -> shardings."""
        return transformer.init_params(self._model, key, self._task.dummy(), True, method=self._task.forward, place=place)

    def scaling(self, total_steps: int, steps: Callable[[str], int]) -> Any:
        """Returns what the adapter does to finished updates, an optax transformation, or None."""
        return None if self.adapter is None else self.adapter.scaling(self.trained_shapes, total_steps, steps)

    @functools.cached_property
    def places(self) -> dict[str, Place]:
        return survey(self._model, self._task.forward, self._task.dummy(), self.base_shapes)

    def joined(self, params: Any) -> Any:
        """Returns the model's own parameters with what the adapter adds, at its initial values."""
        if self.adapter is None:
            return params
        leaves = self.adapter.added(self.places, params, self._key)  # not compiled as a whole: leaves of one shape share a program so
        if taken := leaves.keys() & tree.flatten(self.base_shapes).keys():
            raise UserError(f"adapt: the model has parameters of the names that {self.adapter.name} adds: {', '.join(sorted(taken))}.")
        return base.insert(params, leaves)

    @functools.cached_property
    def shapes(self) -> Any:
        """Shapes of everything that the model computes with."""
        return self.base_shapes if self.adapter is None else jax.eval_shape(self.joined, self.base_shapes)

    @functools.cached_property
    def added(self) -> set[str]:
        """Paths of what the adapter adds."""
        return tree.flatten(self.shapes).keys() - tree.flatten(self.base_shapes).keys()

    @functools.cached_property
    def trained(self) -> set[str]:
        """Paths of what is trained."""
        if self.adapter is None:
            return set(tree.flatten(self.base_shapes))
        found = self.added | self.adapter.trained(self.base_shapes)
        if not found:
            raise UserError(f"adapt: {self.adapter.name} trains nothing of this model: name something in adapt.kw.also_train.")
        return found

    @functools.cached_property
    def trained_shapes(self) -> Any:
        return self.shapes if self.adapter is None else tree.split(self.shapes, self.trained)[0]

    def split(self, params: Any) -> tuple[Any, Any]:
        """Returns (what is trained, the rest as it is kept in memory) of joined parameters; None for no rest."""
        if self.adapter is None:
            return params, None
        trained, rest = tree.split(params, self.trained)
        return trained, self.adapter.stored(rest, self.places) if rest else {}

    def rest(self, params: Any) -> Any:
        """Returns what is not trained of the model's own parameters."""
        return tree.split(params, self.trained)[1]

    def begin(self, trained: Any) -> Any:
        """Returns what the adapter remembers from step to step, before the first."""
        return None if self.adapter is None else self.adapter.begin(trained)

    def take(self, params: Any, source: dict[str, Any], expected: dict[str, Any]) -> None:
        """Notes where the model's own parameters came from. Errors: UserError where they are not the `expected` ones, an earlier origin."""
        if self.adapter is None:
            return
        origin = {**source, "fingerprint": fingerprint(self.rest(params))}
        if expected and expected["fingerprint"] != origin["fingerprint"]:
            where = f"{expected['workdir']}, step {expected['checkpoint']}" if expected.get("workdir") else "drawn from the seed"
            raise UserError(
                f"the parameters that this adapter was trained on ({where}) are no longer the same: their fingerprint was "
                f"{expected['fingerprint']} and is {origin['fingerprint']}. Bring them back, or adapt the new ones in another workdir."
            )
        self.origin = origin

    def check_loaded(self, initial: list[str]) -> None:
        """Errors: UserError for parameters that init_from left at random values and that are not trained either."""
        if self.adapter is not None and (lost := [path for path in initial if path not in self.trained]):
            listing = "\n".join(f"  {path}" for path in lost)
            raise UserError(
                f"adapt: these parameters are neither in init_from's source nor trained, so they would stay random:\n{listing}\n"
                "Name them in adapt.kw.also_train, or bring them by init_from.rename."
            )

    def summary(self) -> str:
        """How many parameters there are, and are trained."""
        total, trained = tree.count(self.shapes), tree.count(self.trained_shapes)
        if self.adapter is None:
            return f"{total:,} parameters"
        return f"{self.adapter.name}: {trained:,} of {total:,} parameters are trained ({trained / total:.2%})"


def fingerprint(params: Any) -> str:
    """Returns a short text that changes with any bit of any parameter."""
    value = 0
    for path, leaf in tree.flatten(params).items():
        array = np.ascontiguousarray(leaf)
        value = zlib.crc32(f"{path} {array.dtype} {array.shape}".encode(), value)
        value = zlib.crc32(array.view(np.uint8).reshape(-1) if array.size else b"", value)
    return f"{value:08x}"
