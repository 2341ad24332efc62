"""The cases of `tiny.py` as directories on disk, and what our models make of them."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from decoder_lab.core import tree
from decoder_lab.interop import safetensors, shapes
from decoder_lab.interop.directory import Directory
from decoder_lab.interop.safetensors import Lazy

QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time what runs once
FIXTURES = pathlib.Path(__file__).parent / "fixtures"
SHAPES = json.loads((FIXTURES / "shapes.json").read_text())


@functools.cache
def expected() -> dict[str, np.ndarray]:
    """What transformers computed for each case, by `reference.py fixtures`."""
    return dict(np.load(FIXTURES / "outputs.npz"))


def write(name: str, folder: pathlib.Path, tensors: dict | None = None, **settings) -> pathlib.Path:
    """Writes a case as transformers would have saved it, with changed settings or tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**tiny.config(name), **settings}))
    arrays = tiny.weights(name, SHAPES[name]) if tensors is None else tensors
    safetensors.write_directory(folder, {k: Lazy.of(v) for k, v in arrays.items()})
    return folder


def loaded(directory: Directory) -> dict:
    """Returns the parameters as nested dicts of arrays."""
    return tree.nest({path: jnp.asarray(np.asarray(array)) for path, array in directory.params().items()})


def with_packed(inputs: dict) -> dict:
    """Returns the batch with longer padding, and a third row that holds the documents of both rows (segments 1 and 2)."""
    found = {}
    for key in inputs:
        if key.endswith("segments"):
            continue
        which = "source_segments" if key == "source" else "segments"
        first, second = (inputs[key][row][inputs[which][row] == 1] for row in (0, 1))
        length = len(first) + len(second)
        rows = [np.pad(row, (0, length - len(row))) for row in inputs[key]]
        found[key] = np.stack([*rows, np.concatenate([first, second])])
        marks = [np.pad(row, (0, length - len(row))) for row in inputs[which]]
        found[which] = np.stack([*marks, np.repeat([1, 2], [len(first), len(second)])]).astype(np.int32)
    return found


def call(name: str, inputs: dict) -> dict:
    """Returns the arguments of our model for a batch."""
    tokens, segments, types = inputs["tokens"], inputs["segments"], inputs.get("types")
    if "source" in inputs:
        return dict(tokens_BT=tokens, segments_BT=segments, source_BS=inputs["source"], source_segments_BS=inputs["source_segments"])
    if name in tiny.WRITES:
        return dict(tokens_BT=tokens, segments_BT=segments)
    if name.endswith("_tagger"):
        every = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        return dict(tokens_BS=tokens, segments_BS=segments, starts_BW=every, words_BW=segments)
    if name.endswith("_answers"):
        return dict(tokens_BS=tokens, segments_BS=segments, types_BS=types, question_BQ=segments)
    if name.endswith("_vectors"):
        return dict(source_BS=tokens, source_segments_BS=segments, tokens_BT=tokens, segments_BT=segments)
    return dict(tokens_BS=tokens, segments_BS=segments, **({"types_BS": types} if types is not None else {}))


def outputs(name: str, directory: Directory, params: dict, inputs: dict) -> np.ndarray:
    """Returns what `reference.outputs` returns, by our model."""
    model = shapes.model(shapes.unrolled(directory.plugin), directory.sizes)
    with jax.default_matmul_precision("highest"):
        lowered = jax.jit(lambda params, given: model.apply({"params": params}, **given)).lower(params, call(name, inputs))
        found = lowered.compile(QUICK)(params, call(name, inputs))
    found = found.emissions_BWC if name.endswith("_tagger") else found
    return np.asarray(found[0] if isinstance(found, tuple) else found)
