"""A model as compiled functions (StableHLO by `jax.export`), which run without this program, its config or Python classes.

    forward.stablehlo         (params, tokens, positions, segments[, memory]) -> logits, of a model that writes
    step.stablehlo            (params, tokens, positions, segments, cache[, memory]) -> (logits, cache): one token a row
    encode.stablehlo          (params, source, source_segments) -> memory, where a source is read
    predict.stablehlo         (params, batch) -> predictions, of a model that predicts instead (forward where it does not even that)
    params.safetensors        the parameters by path
    signature.json            what each function takes and gives: names, dtypes, shapes ("batch" is any number)

Everything that goes in and comes out is an array or a flat dict {path: array}. `jax.export.deserialize(bytes).call(...)` runs a function.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core import tree
from decoder_lab.interop import safetensors
from decoder_lab.interop.safetensors import Lazy

PLATFORMS = ("cpu", "cuda", "tpu")
PARAMS, SIGNATURE = "params.safetensors", "signature.json"


def write(output: pathlib.Path, experiment: Any, params: Any) -> None:
    """Writes the functions of an experiment's model, and its parameters."""
    flat, structure = tree.flatten(params), jax.tree.structure(params)
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in flat.items()}

    def whole(given: dict) -> Any:
        return jax.tree.unflatten(structure, [given[path] for path in flat])

    make = _of_writer if hasattr(experiment.model, "init_cache") else _of_predictor
    functions = make(experiment, whole, shapes)
    output.mkdir(parents=True, exist_ok=True)
    signature = {}
    for name, (function, arguments) in functions.items():
        made = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
        (output / f"{name}.stablehlo").write_bytes(made.serialize())
        results = jax.tree.unflatten(made.out_tree, made.out_avals)
        signature[name] = {"takes": ["params", *map(_described, arguments[1:])], "gives": _described(results)}
    safetensors.write(output / PARAMS, {path: Lazy.of(leaf) for path, leaf in flat.items()})
    (output / SIGNATURE).write_text(json.dumps({"platforms": PLATFORMS, "functions": signature}, indent=1) + "\n")
    experiment.report(f"{output}: {', '.join(functions)} for {', '.join(PLATFORMS)}, and {tree.count(params):,} parameters")


def _of_writer(experiment: Any, whole: Callable, params: dict) -> dict[str, tuple[Callable, tuple]]:
    """Returns {name: (function, shapes of its arguments)} of a model with `init_cache`."""
    model, length = experiment.model, experiment.config.sequence_length
    (batch,) = jax.export.symbolic_shape("batch")

    def page(columns: int) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct((batch, columns), jnp.int32)] * 3

    def apply(given, *args, **named):
        return model.apply({"params": whole(given)}, *args, **named)

    empty = jax.eval_shape(lambda: model.init_cache(2, length))
    cache, caches = _any_batch(empty, batch), jax.tree.structure(empty)
    functions, memories, more = {}, None, ()
    if hasattr(model, "encode"):
        source = [jax.ShapeDtypeStruct((2, length), jnp.int32)] * 2
        read = jax.eval_shape(lambda given, *s: apply(given, *s, method="encode"), params, *source)
        memories, more = jax.tree.structure(read), (_any_batch(read, batch),)
        functions["encode"] = (lambda given, *s: tree.flatten(apply(given, *s, method="encode")), (params, *page(length)[:2]))

    def remembered(memory: tuple) -> dict:
        return {"memory": jax.tree.unflatten(memories, [memory[0][path] for path in more[0]])} if memory else {}

    def forward(given, tokens_BT, positions_BT, segments_BT, *memory):
        places = dict(positions_BT=positions_BT, segments_BT=segments_BT)
        return apply(given, tokens_BT, **places, **remembered(memory))[0]

    def step(given, tokens_B1, positions_B1, segments_B1, cache, *memory):
        made = jax.tree.unflatten(caches, [cache[path] for path in order])  # a dict that went through jax has its keys sorted
        places = dict(positions_BT=positions_B1, segments_BT=segments_B1, cache=made)
        logits_B1V, cache = apply(given, tokens_B1, **places, **remembered(memory))
        return logits_B1V, tree.flatten(cache)

    order = list(cache)
    functions["forward"] = (forward, (params, *page(length), *more))
    functions["step"] = (step, (params, *page(1), cache, *more))
    return functions


def _of_predictor(experiment: Any, whole: Callable, params: dict) -> dict[str, tuple[Callable, tuple]]:
    """Returns {"predict": (function, shapes of its arguments)}: texts of sequence_length, padded with segment 0."""
    model, task, length = experiment.model, experiment.task, experiment.config.sequence_length
    (batch,) = jax.export.symbolic_shape("batch")
    dummy = {name: np.asarray(x) for name, x in task.dummy().items()}
    inputs = {k: jax.ShapeDtypeStruct((batch, *((length,) if x.ndim > 1 else ()), *x.shape[2:]), x.dtype) for k, x in dummy.items()}
    if hasattr(task, "predict"):
        return {"predict": (lambda given, b: _named(task.predict(model, whole(given), b)), (params, inputs))}
    return {"forward": (lambda given, b: _named(model.apply({"params": whole(given)}, b, True, method=task.forward)), (params, inputs))}


def _named(value: Any) -> dict[str, jax.Array]:
    return {path or "outputs": leaf for path, leaf in tree.flatten(value).items()}


def _any_batch(value: Any, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns {path: shape}: the batch is axis 0 of whatever has axes."""
    return {
        path: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]) if leaf.shape else (), leaf.dtype) for path, leaf in tree.flatten(value).items()
    }


def _described(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _described(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_described(inner) for inner in value]
    return f"{np.dtype(value.dtype)}[{','.join(map(str, value.shape))}]"
