"""What is exported here is loaded by transformers, which then computes and writes the same. Needs a Python with torch and transformers.

That is the tests' own (`pip install -e .[torch]`), or the one that DECODER_LAB_TORCH_PYTHON names; without either these tests are skipped,
and the numbers that transformers gave once (`fixtures/`) are what the others compare with.
"""

import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys
import zlib

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from decoder_lab.core import tree
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import Sampling
from decoder_lab.interop import export, shapes
from decoder_lab.interop import plugin as plugins
from decoder_lab.interop.directory import Directory

REFERENCE = pathlib.Path(__file__).parent / "reference.py"
NUM_TOKENS = 8


def python_with_torch():
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        return sys.executable
    return os.environ.get("DECODER_LAB_TORCH_PYTHON")


pytestmark = pytest.mark.skipif(
    python_with_torch() is None,
    reason="no torch here (pip install -e .[torch]), and DECODER_LAB_TORCH_PYTHON names no Python that has it",
)


def prompt_of(name):
    """transformers puts the decoder's first token before a prompt that lacks it."""
    return [tiny.CASES[name][1].get("decoder_start_token_id", 5), 9, 4]


def drawn(directory):
    """Parameters as after some training: nothing is at its initial zero or one."""
    found = {}
    for path, shape in shapes.of(directory.plugin, directory.sizes).items():
        x = np.random.RandomState(zlib.crc32(path.encode())).standard_normal(shape).astype(np.float32)
        found[path] = 1 + 0.2 * x if path.endswith("scale") else 0.3 * x
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """{case: (directory of its config, parameters, folder with what transformers made of the export)}."""
    folder, made = tmp_path_factory.mktemp("exported"), {}
    for name, (_, settings) in tiny.CASES.items():
        directory = Directory(cases.write(name, folder / f"{name}_config"))
        params = drawn(directory)
        more = {key: value for key, value in settings.items() if key.endswith("token_id") or key in ("id2label", "label2id")}
        export.write(folder / name, directory.plugin, directory.sizes, params, more, settings["model_type"])
        prompt = {"prompt": np.array(prompt_of(name))} if name in tiny.WRITES else {}
        np.savez(folder / name / "inputs.npz", **tiny.inputs(name), **prompt)
        made[name] = directory, tree.nest({path: jnp.asarray(array) for path, array in params.items()}), folder / name
    folders = [str(where) for *_, where in made.values()]
    done = subprocess.run([python_with_torch(), str(REFERENCE), "check", *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return made


@pytest.mark.parametrize("name", tiny.CASES)
def test_transformers_computes_the_same_from_an_export(exported, name):
    directory, params, folder = exported[name]
    inputs, wanted = tiny.inputs(name), np.load(folder / "reference.npz")["outputs"]
    got = cases.outputs(name, directory, params, inputs)
    real = inputs["segments"] == 1 if wanted.shape[:2] == inputs["segments"].shape else slice(None)
    np.testing.assert_allclose(got[real], wanted[real], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", tiny.CASES)
def test_what_transformers_saves_is_loaded_as_the_same_model(exported, name):
    """Its own config.json, of its version, and its own files: the same settings, every parameter to the bit."""
    directory, params, folder = exported[name]
    again = Directory(folder / "saved")
    assert plugins.canonical("model", again.plugin) == plugins.canonical("model", directory.plugin)
    labels = directory.sizes.num_labels if "id2label" in directory.config else again.sizes.num_labels  # BART has three where nobody asked
    assert again.sizes == dataclasses.replace(directory.sizes, num_labels=labels)
    found, wanted = again.params(), tree.flatten(params)
    assert found.keys() == wanted.keys()
    for path, array in found.items():
        np.testing.assert_array_equal(np.asarray(array), wanted[path], err_msg=path)


@pytest.mark.parametrize("name", tiny.WRITES)
def test_transformers_writes_the_same_greedy_text_from_an_export(exported, name):
    directory, params, folder = exported[name]
    inputs, wanted = tiny.inputs(name), np.load(folder / "reference.npz")["tokens"]
    model = shapes.model(shapes.unrolled(directory.plugin), directory.sizes)
    generator = Generator.from_model(model, eos_id=None)
    settings = Sampling(temperature=0.0)
    source = {}
    if "source" in inputs:
        real = inputs["source_segments"][:1] == 1
        row = inputs["source"][:1][real][None]
        source = {"inputs": {"source": row, "source_segments": np.ones_like(row)}}
    with jax.default_matmul_precision("highest"):
        [[found]] = generator.generate(params, [prompt_of(name)], NUM_TOKENS, settings, **source)
    assert found.tokens == wanted.tolist()
