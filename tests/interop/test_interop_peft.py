"""PEFT's format: what it computes with the exported base is what is merged here, and what is read back is what was written.

Checked once with peft 0.21.2 itself: logits of GPT-2 and Llama shapes within 2e-6 in float32, lora and dora.
"""

import json

import jax
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.interop import safetensors
from decoder_lab.training import experiment as experiments
from decoder_lab.training import resume, weights

LLAMA = dict(norm="rms", position="rotary", mlp="swiglu", use_bias=False, num_kv_heads=1, mlp_dim=12, scan_layers=True)
CASES = {
    "llama": (LLAMA, dict(name="lora", kw=dict(rank=2, alpha=3.0, rank_stabilised=True))),
    "gpt2": ({}, dict(name="lora", kw=dict(rank=2, alpha=3.0))),
    "llama_dora": (LLAMA, dict(name="dora", kw=dict(rank=2, alpha=3.0, targets=("(query|down)/kernel",)))),
}


def experiment_of(folder, kw, adapt, **changes):
    (folder / "text.txt").write_text("never odd or even " * 50)
    files = dict(train=str(folder / "text.txt"), validation=str(folder / "text.txt"))
    delta = dict(
        data=dict(source=dict(name="text", kw=files)),
        model=dict(name="decoder_only", kw=dict(dict(num_layers=2, num_heads=2, width=8), **kw)),
        sequence_length=8,
        adapt=adapt,
    )
    return experiments.Experiment(config_lib.resolve({**delta, **changes}), folder / "run", report=lambda line: None)


def moved(experiment):
    """Returns all parameters, none at its initial value."""
    params = experiment.adaptation.joined(experiment.init_params())
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(x) + 0.2 * rng.standard_normal(x.shape).astype(np.float32), params)


def adapted(name, tensor, file, config):
    """PEFT's formula, in its layout: W + scale B A, for dora with every row brought to its length."""
    module = name.removesuffix(".weight")
    a, b = (file.get(f"base_model.model.{module}.lora_{part}.weight") for part in "AB")
    if a is None:
        return tensor
    rank = config["rank_pattern"].get(module, config["r"])
    scale = config["alpha_pattern"].get(module, config["lora_alpha"]) / (rank**0.5 if config["use_rslora"] else rank)
    assert a.shape[0] == rank
    weight = (tensor.T if config["fan_in_fan_out"] else tensor) + scale * b @ a
    if config["use_dora"]:
        weight *= (file[f"base_model.model.{module}.lora_magnitude_vector"] / np.linalg.norm(weight, axis=1))[:, None]
    return weight.T if config["fan_in_fan_out"] else weight


@pytest.mark.parametrize("case", CASES)
def test_what_peft_makes_of_it_is_what_is_merged(case, tmp_path):
    experiment = experiment_of(tmp_path, *CASES[case])
    params = moved(experiment)
    merged = experiment.adaptation.adapter.merge(params)
    weights.export_run(experiment, tree.split(params, experiment.adaptation.added)[1], tmp_path / "base")
    weights.export_run(experiment, merged, tmp_path / "merged")
    weights.export_adapter(experiment, params, tmp_path / "peft")
    read = {name: safetensors.read(tmp_path / name / "model.safetensors") for name in ("base", "merged")}
    base, whole = ({name: np.asarray(x) for name, x in read[at].items()} for at in ("base", "merged"))
    file = {name: np.asarray(x) for name, x in safetensors.read(tmp_path / "peft" / "adapter_model.safetensors").items()}
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    changed = 0
    for name, tensor in base.items():
        found = adapted(name, tensor, file, config)
        changed += found is not tensor
        np.testing.assert_allclose(found, whole[name], atol=2e-6, err_msg=name)
    assert changed == len(config["target_modules"]) == len(file) / (3 if config["use_dora"] else 2)


def test_read_back_and_trained_on(tmp_path):
    """By init_from.adapter: bit for bit, stacked layers too."""
    experiment = experiment_of(tmp_path, *CASES["llama"])
    params = moved(experiment)
    weights.export_adapter(experiment, params, tmp_path / "peft")
    other = experiment_of(tmp_path, *CASES["llama"], init_from=dict(adapter=str(tmp_path / "peft")))
    state = other.init_state(*resume.base_params(other))
    for path, leaf in tree.flatten(state.params).items():
        np.testing.assert_array_equal(leaf, tree.flatten(params)[path])


def test_fused_matrices_are_read_into_every_part(tmp_path):
    """GPT-2's c_attn has one A: queries, keys and values each get it, and their rows of B."""
    kw, _ = CASES["gpt2"]
    experiment = experiment_of(tmp_path, kw, CASES["gpt2"][1])
    params = moved(experiment)
    weights.export_adapter(experiment, params, tmp_path / "peft")
    whole = dict(name="lora", kw=dict(rank=4, alpha=6.0, targets=("(query|key|value)/kernel",)))
    other = experiment_of(tmp_path, kw, whole, init_from=dict(adapter=str(tmp_path / "peft")))
    added = weights.initial_adapter(other, tmp_path / "peft")
    base = tree.split(params, experiment.adaptation.added)[1]
    one = experiment.adaptation.adapter.merge(params)
    again = other.adaptation.adapter.merge(tree.join(base, tree.nest(added)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), one, again)


def test_what_does_not_fit_is_an_error_that_names_both_sides(tmp_path):
    """KNOWN_BUGS 15: an adapter that loads with no effect."""
    kw, adapt = CASES["llama"]
    experiment = experiment_of(tmp_path, kw, adapt)
    weights.export_adapter(experiment, moved(experiment), tmp_path / "peft")

    def load(adapt):
        return weights.initial_adapter(experiment_of(tmp_path, kw, adapt), tmp_path / "peft")

    with pytest.raises(UserError, match="adapt rank: got 4, expected 2"):
        load(dict(name="lora", kw=dict(adapt["kw"], rank=4)))
    with pytest.raises(UserError, match=r"missing: decoder/layer_0/attention/key/lora_a(.|\n)*not known, or not a target here: .*q_proj"):
        load(dict(name="lora", kw=dict(adapt["kw"], targets=("key/kernel",))))
    with pytest.raises(UserError, match="this run has none: set adapt"):
        load(None)
    with pytest.raises(UserError, match="only lora and dora"):
        other = experiment_of(tmp_path, kw, dict(name="ia3", kw={}))
        weights.export_adapter(other, moved(other), tmp_path / "ia3")
    with pytest.raises(UserError, match="parameters of the model itself were trained too"):
        other = experiment_of(tmp_path, kw, dict(name="lora", kw=dict(rank=2, also_train=("final_norm",))))
        weights.export_adapter(other, moved(other), tmp_path / "more")
