"""Losses that layers have of their own, beside the task's: those of the router of a mixture of experts.

A layer sows (sum, weight) into the collection "losses". Tasks know nothing of it: they call `model.apply`, and `Audible` hands on what was
sown while `collected()` listens.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.core import tree
from decoder_lab.layers.mixture_of_experts import LOSSES

ADDED = "auxiliary"  # what the step adds to the loss (`training/step.py`); the others are only reported

_listening: contextvars.ContextVar[list | None] = contextvars.ContextVar("listening", default=None)


@dataclasses.dataclass(frozen=True)
class Audible:
    """A Linen model whose layers have losses; all else is the model's own."""

    model: Any

    def apply(self, variables: dict, *args: Any, **kwargs: Any) -> Any:
        """As `model.apply`."""
        found = _listening.get()
        if found is None or kwargs.get("mutable"):
            return self.model.apply(variables, *args, **kwargs)
        out, sown = self.model.apply(variables, *args, **{**kwargs, "mutable": [LOSSES]})
        found.append(sown.get(LOSSES, {}))
        return out

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.model, name)


@contextlib.contextmanager
def collected() -> Iterator[list]:
    """Gives a list to which every call of an `Audible` model inside adds what its layers sowed."""
    found: list = []
    token = _listening.set(found)
    try:
        yield found
    finally:
        _listening.reset(token)


def added(metrics: dict[str, tuple], sown: list) -> dict[str, tuple]:
    """Returns a task's metrics with the means of the layers' losses over layers and tokens, and "auxiliary", weighted as the loss is."""
    totals: dict[str, jax.Array] = {}
    for path, value in (pair for part in sown for pair in tree.flatten(part).items()):
        name = path.split("/")[-2]  # .../mlp/balance/0
        totals[name] = totals.get(name, 0.0) + jnp.sum(value.reshape(-1, 2), axis=0)
    if not totals:
        return metrics
    weight = jax.lax.stop_gradient(metrics["loss"][1])
    extra = totals[ADDED][0] / jnp.maximum(totals[ADDED][1], 1.0)
    means = {name: (jax.lax.stop_gradient(s), w) for name, (s, w) in totals.items() if name != ADDED}
    return {**metrics, ADDED: (weight * extra, weight), **means}


def of_model(model: Any, plugin: Mapping[str, Any]) -> Any:
    """Returns the model, audible if its config, with everything nested in it, asks for experts."""
    return Audible(model) if _has_experts(plugin) else model


def _has_experts(plugin: Mapping[str, Any]) -> bool:
    kw = plugin.get("kw") or {}
    return bool(kw.get("num_experts")) or any(
        _has_experts(value) for value in kw.values() if isinstance(value, Mapping) and "name" in value
    )
