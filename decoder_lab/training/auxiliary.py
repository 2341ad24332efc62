"""Losses that layers have of their own, beside the task's: those of the router of a mixture of experts.

A layer sows (sum, weight) into the collection "losses". Tasks know nothing of it: they call `model.apply`, and `Audible` hands on what was
sown while `collected()` listens to it.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.core.scope as scopes
import jax
import jax.numpy as jnp

from decoder_lab.core import tree
from decoder_lab.layers.mixture_of_experts import LOSSES

ADDED = "auxiliary"  # what the step adds to the loss (`training/step.py`); the others are only reported

# (the model that is listened to, None for all; what was heard)
_listening: contextvars.ContextVar[tuple[Any, list] | None] = contextvars.ContextVar("listening", default=None)


@dataclasses.dataclass(frozen=True)
class Audible:
    """A Linen model whose layers have losses; all else is the model's own."""

    model: Any

    def apply(self, variables: dict, *args: Any, **kwargs: Any) -> Any:
        """As `model.apply`."""
        listening, asked = _listening.get(), kwargs.get("mutable", False)
        if listening is None or (listening[0] is not None and listening[0] is not self):  # a teacher may be made as its student is
            return self.model.apply(variables, *args, **kwargs)
        out, sown = self.model.apply(variables, *args, **{**kwargs, "mutable": scopes.union_filters(asked, LOSSES)})
        listening[1].append(sown.get(LOSSES, {}))
        if asked is False:
            return out
        return out, sown if scopes.in_filter(asked, LOSSES) else {name: found for name, found in sown.items() if name != LOSSES}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.model, name)


@contextlib.contextmanager
def collected(model: Any = None) -> Iterator[list]:
    """Gives a list to which every call of an `Audible` model inside adds what its layers sowed; with `model` only calls of that one.

    It may stand inside an adapted model. A task may have another beside it, such as a teacher, whose losses nobody is to learn from.
    """
    found: list = []
    while model is not None and not isinstance(model, Audible) and (inside := getattr(model, "model", None)) is not None:
        model = inside
    token = _listening.set((model, found))
    try:
        yield found
    finally:
        _listening.reset(token)


def added(metrics: dict[str, tuple], sown: list) -> dict[str, tuple]:
    """Returns a task's metrics with {name: (sum, weight)} of the layers' losses, over layers and tokens; of "auxiliary" for the step."""
    totals: dict[str, jax.Array] = {}
    for path, value in (pair for part in sown for pair in tree.flatten(part).items()):
        name = path.split("/")[-2]  # .../mlp/balance/0
        totals[name] = totals.get(name, 0.0) + jnp.sum(value.reshape(-1, 2), axis=0)
    if not totals:
        return metrics
    return {**metrics, **{name: (s if name == ADDED else jax.lax.stop_gradient(s), w) for name, (s, w) in totals.items()}}


def of_model(model: Any, plugin: Mapping[str, Any]) -> Any:
    """Returns the model, audible if its config, with everything nested in it, asks for experts."""
    return Audible(model) if _has_experts(plugin) else model


def _has_experts(plugin: Mapping[str, Any]) -> bool:
    kw = plugin.get("kw") or {}
    return bool(kw.get("num_experts")) or any(
        _has_experts(value) for value in kw.values() if isinstance(value, Mapping) and "name" in value
    )
