"""What every way of adapting a model is made of, and the model that it makes.

There is one tree of parameters. What an adapter adds are further leaves in it, beside those of the module that they change
(`.../query/kernel` gets `.../query/lora_a`), so scanned layers slice them like any others. They act in two ways: `effective` gives the
weights to compute with, from the tree, before the model is applied; `around` stands around each call of a module and changes what it
returns. A leaf that is not there does nothing: the same adapted model computes with plain or merged weights too.
"""

import dataclasses
import zlib
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.adapters.places import Place
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError

# last layers of the models of the lab, and what stands beside them, which a new task draws afresh
HEADS = r"^(output|emission|span|intent|hidden)/(kernel|bias)$|^(pool/|crf_)"


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The base of every method: trains nothing but the heads and what `also_train` names.

    Attributes:
      train_heads: whether the layers that make an encoder's output labels, tags or spans are trained, in full.
      also_train: regexes on paths of the model's own parameters that are trained in full besides.
    """

    train_heads: bool = True
    also_train: tuple[str, ...] = ()

    lengthens = 0  # entries that it puts before each text
    undecayed: ClassVar[tuple[str, ...]] = ()  # regexes of what it adds that weight decay, towards zero, would undo

    def added(self, places: dict[str, Place], params: Any, key: jax.Array) -> dict[str, jax.Array]:
        """Returns {path: initial value} of what it adds to the model's own `params`. Errors: UserError where there is no place."""
        del places, params, key
        return {}

    def trained(self, params: Any) -> set[str]:
        """Returns the paths of the model's own parameters that are trained. Errors: UserError for a pattern that matches nothing."""
        tree.check_patterns(params, self.also_train, "adapt.kw.also_train")
        patterns = [*self.also_train, *([HEADS] if self.train_heads else [])]
        return {path for path, hit in tree.flatten(tree.mask(params, patterns)).items() if hit}

    def effective(self, params: Any) -> Any:
        """Returns the tree that the model is applied to."""
        return params

    def around(self, module: nn.Module, call: Callable, args: tuple, kwargs: dict) -> Any:
        """Returns what a module's `__call__` shall return; `call(*args, **kwargs)` is what it does by itself."""
        del module
        return call(*args, **kwargs)

    def applied(self, model: nn.Module, run: Callable, args: tuple, kwargs: dict) -> Any:
        """Returns what `model.apply` shall return; `run(*args, **kwargs)` is that of the adapted model."""
        del model
        return run(*args, **kwargs)

    def stored(self, frozen: Any, places: dict[str, Place]) -> Any:
        """Returns the frozen parameters as they are kept in memory."""
        del places
        return frozen

    def merge(self, params: Any) -> Any:
        """Returns plain parameters that compute the same without the adapter. Errors: UserError where there are none."""
        raise UserError(f"{self.name} cannot be merged: what it adds stands between the model's layers, not in its weights.")

    def unmerge(self, merged: Any, params: Any) -> Any:
        """Returns `params` again, up to rounding, from their merge and the leaves that the adapter added to them."""
        raise UserError(f"{self.name} cannot be taken out of merged weights.")

    def folded(self, params: Any) -> Any:
        """Returns the tree to generate and to predict with: merged where the method can be, else as it is."""
        return params

    def penalty(self, params: Any) -> jax.Array | None:
        """Returns what is added to the mean loss while training, None for nothing."""
        del params
        return None

    def scaling(self, params: Any, total_steps: int, steps: Callable[[str], int]) -> Any:
        """Returns an optax transformation of finished updates of the trained `params`, or None; `steps`: duration -> steps."""
        del params, total_steps, steps
        return None

    def begin(self, params: Any) -> Any:
        """Returns what it remembers from step to step, a pytree of arrays; None for nothing."""
        del params
        return None

    def follow(self, memory: Any, params: Any, grads: Any, step: jax.Array, total_steps: int, steps: Callable[[str], int]) -> Any:
        """Returns what it remembers after a step, from the trained params before it and their mean gradients."""
        del params, grads, step, total_steps, steps
        return memory

    def project(self, params: Any, memory: Any) -> Any:
        """Returns the trained parameters, or their average, after an update, as the adapter restricts them."""
        del memory
        return params

    @property
    def name(self) -> str:
        return type(self).__module__.rsplit(".", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A model with an adapter; where the lab takes a model it takes this. `apply` is the adapted one's, all else the model's own."""

    model: Any
    adapter: Adapter

    def apply(self, variables: dict, *args: Any, **kwargs: Any) -> Any:
        """As `model.apply`."""
        variables = {**variables, "params": self.adapter.effective(variables["params"])}

        def around(next_fun, args, kwargs, context):
            if context.method_name != "__call__":
                return next_fun(*args, **kwargs)
            return self.adapter.around(context.module, next_fun, args, kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            with nn.intercept_methods(around):
                return self.model.apply(variables, *args, **kwargs)

        return self.adapter.applied(self.model, run, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found, longer = getattr(self.model, name), self.adapter.lengthens
        if longer and name in ("max_length", "context_length") and found is not None:
            return found - longer
        if longer and name == "init_cache":
            return lambda batch_size, max_length: found(batch_size, max_length + longer)
        return found


def insert(params: Any, leaves: dict[str, Any]) -> dict:
    """Returns the tree with further leaves, or others in the place of some, {path: leaf}."""
    return tree.join(params, tree.nest(leaves))


def remove(params: Any, paths: Collection[str]) -> dict:
    """Returns the tree without the leaves at these paths."""
    return tree.split(params, paths)[1]


def key_of(key: jax.Array, path: str) -> jax.Array:
    """Returns a key of its own for the leaf at a path."""
    return jax.random.fold_in(key, jnp.uint32(zlib.crc32(path.encode())))


def matching(paths: Collection[str], patterns: tuple[str, ...], what: str) -> list[str]:
    """Returns those of `paths` that any pattern of the setting `what` matches. Errors: UserError, listing them, where one matches none."""
    known = dict.fromkeys(paths)
    found = tree.nest({path: path for path in known})
    tree.check_patterns(found, patterns, what)
    return [path for path, hit in tree.flatten(tree.mask(found, patterns)).items() if hit]


def nowhere(adapter: Adapter, places: dict[str, Place], wanted: str) -> UserError:
    """Returns the error of a method for which a model has no place."""
    there = sorted({place.kind.replace("_", " ") for place in places.values()})
    return UserError(f"adapt: {adapter.name} acts on {wanted}, and this model has none. It has: {', '.join(there)}. Take another method.")
