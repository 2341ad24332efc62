"""What is exported here peft loads, and then its model computes the same; what peft saved is read here and computes the same.

Needs a Python with torch, transformers and peft: the tests' own (`pip install -e .[torch]`), or the one that DECODER_LAB_TORCH_PYTHON
names.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_interop_peft import CASES, LLAMA, experiment_of, moved

from decoder_lab.core import tree
from decoder_lab.training import resume, weights

SIDE = pathlib.Path(__file__).parent / "peft_side.py"
TOKENS = np.arange(14, dtype=np.int32).reshape(2, 7) * 17 % 250
QKV = "attention/(query|key|value)/kernel$"
# peft's settings, and ours that read what it saves
THEIRS = {
    "lora": (
        {},
        ("lora", dict(r=4, lora_alpha=6, target_modules=["c_attn"])),
        dict(name="lora", kw=dict(rank=4, alpha=6.0, targets=(QKV,))),
    ),
    "dora": (
        {},
        ("lora", dict(r=4, lora_alpha=6, target_modules=["c_attn", "c_fc"], use_dora=True)),
        dict(name="dora", kw=dict(rank=4, alpha=6.0, targets=(QKV, "up/kernel$"))),
    ),
    "adalora": (
        {},
        ("adalora", dict(init_r=4, target_r=2, lora_alpha=6, target_modules=["c_attn"], total_step=10)),
        dict(name="adalora", kw=dict(rank=4, target_rank=2, alpha=6.0, targets=(QKV,))),
    ),
    "ia3": (
        {},
        ("ia3", dict(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"])),
        dict(name="ia3", kw=dict(outputs=("query", "key", "value"), inputs=("mlp/down",))),
    ),
    "stabilised_and_norms": (
        LLAMA,
        ("lora", dict(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_rslora=True, modules_to_save=["norm"])),
        dict(
            name="lora",
            kw=dict(rank=2, alpha=6.0, rank_stabilised=True, targets=("(query|down)/kernel$",), also_train=("norm/scale$",)),
        ),
    ),
}


def python_with_peft():
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers", "peft")):
        return sys.executable
    named = os.environ.get("DECODER_LAB_TORCH_PYTHON")
    return named if named and subprocess.run([named, "-c", "import peft"], capture_output=True).returncode == 0 else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of all adapters, each with peft's logits, and the experiments and parameters that were exported."""
    if (python := python_with_peft()) is None:
        pytest.skip("no peft here (pip install -e .[torch]), and DECODER_LAB_TORCH_PYTHON names no Python that has it")
    folder, jobs, made = tmp_path_factory.mktemp("peft"), [], {}
    np.save(folder / "tokens.npy", TOKENS)
    for name, (kw, adapt) in CASES.items():
        made[name] = experiment, params = (one := experiment_of(folder, kw, adapt)), moved(one)
        own, rest = (tree.split(params, experiment.adaptation.trained)[i] for i in (0, 1))
        start = tree.split(experiment.init_params(), experiment.adaptation.trained)[0]
        assert own.keys()
        weights.export_run(experiment, tree.join(rest, start), folder / name / "base")
        weights.export_adapter(experiment, params, folder / name / "adapter")
        jobs.append(dict(base=str(folder / name / "base"), adapter=str(folder / name / "adapter"), make=None))
    for name, (kw, theirs, _) in THEIRS.items():
        base = folder / ("llama" if kw else "gpt2") / "base"
        jobs.append(dict(base=str(base), adapter=str(folder / f"theirs_{name}"), make=theirs))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run([python, str(SIDE), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, made


def logits_of(experiment, params):
    run = jax.jit(lambda params: experiment.model.apply({"params": params}, TOKENS)[0])
    with jax.default_matmul_precision("highest"):
        return run(params)


@pytest.mark.parametrize("case", CASES)
def test_peft_computes_what_is_computed_here(case, folder):
    folder, made = folder
    np.testing.assert_allclose(logits_of(*made[case]), np.load(folder / case / "adapter" / "logits.npy"), atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("case", THEIRS)
def test_what_peft_saved_computes_the_same_here(case, folder):
    folder, made = folder
    kw, _, adapt = THEIRS[case]
    _, params = made["llama" if kw else "gpt2"]
    experiment = experiment_of(folder, kw, adapt, init_from=dict(adapter=str(folder / f"theirs_{case}")))
    base = tree.split(params, tree.flatten(experiment.adaptation.base_shapes).keys())[0]
    _, given = resume.base_params(experiment)
    whole = tree.join(experiment.adaptation.joined(base), tree.nest(given))
    np.testing.assert_allclose(logits_of(experiment, whole), np.load(folder / f"theirs_{case}" / "logits.npy"), atol=5e-5, rtol=1e-5)
