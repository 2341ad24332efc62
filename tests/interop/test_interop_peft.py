"""PEFT's format: what it computes with the exported base is what is merged here, and what is read back is what was written.

With peft itself: test_interop_peft_live.py.
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
    "gpt2_stabilised": ({}, dict(name="lora", kw=dict(rank=2, alpha=3.0, rank_stabilised=True))),
    "llama_dora": (LLAMA, dict(name="dora", kw=dict(rank=2, alpha=3.0, targets=("(query|down)/kernel",)))),
    "gpt2_dora": ({}, dict(name="dora", kw=dict(rank=2, alpha=3.0, targets=("(query|value|up)/kernel",)))),
    "gpt2_adalora": ({}, dict(name="adalora", kw=dict(rank=3, target_rank=2, targets=("(query|value|up)/kernel",)))),
    "llama_ia3": (LLAMA, dict(name="ia3", kw={})),
    "gpt2_ia3": ({}, dict(name="ia3", kw={})),
    "gpt2_whole": ({}, dict(name="lora", kw=dict(rank=2, also_train=("layer_1/mlp/up/(kernel|bias)$", "final_norm/")))),
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
    """PEFT's formulas, in its layout: W + scale B A, for dora with every row brought to its length; W + scale B E A; l W or W l."""
    module, name = name.rpartition(".")[0], f"base_model.model.{name}"
    transposed = config["fan_in_fan_out"] and tensor.ndim == 2
    weight, of = tensor.T if transposed else tensor, f"base_model.model.{module}"
    if name in file:
        return file[name]
    if f"{of}.ia3_l" in file and module in config["feedforward_modules"]:
        weight = weight * file[f"{of}.ia3_l"] if weight.ndim == 2 else weight
    elif f"{of}.ia3_l" in file:
        weight = weight * file[f"{of}.ia3_l"].reshape(-1, *[1] * (weight.ndim - 1))
    elif f"{of}.lora_E" in file and weight.ndim == 2:
        a, b, e = (file[f"{of}.lora_{part}"] for part in "ABE")
        weight = weight + config["lora_alpha"] / config["init_r"] * b @ (a * e)
    elif f"{of}.lora_A.weight" in file and weight.ndim == 2:
        a, b = (file[f"{of}.lora_{part}.weight"] for part in "AB")
        rank = config["rank_pattern"].get(module, config["r"])
        scale = config["alpha_pattern"].get(module, config["lora_alpha"]) / (rank**0.5 if config["use_rslora"] else rank)
        assert a.shape[0] == rank
        weight = weight + scale * b @ a
        if config["use_dora"]:
            weight = weight * (file[f"{of}.lora_magnitude_vector"] / np.linalg.norm(weight, axis=1))[:, None]
    else:
        return tensor
    return weight.T if transposed else weight


@pytest.mark.parametrize("case", CASES)
def test_what_peft_makes_of_it_is_what_is_merged_and_it_is_read_back(case, tmp_path):
    """KNOWN_BUGS 15: what else was trained goes along (modules_to_save)."""
    experiment = experiment_of(tmp_path, *CASES[case])
    start, params = experiment.init_params(), moved(experiment)
    merged = experiment.adaptation.adapter.merge(params)
    trained, rest = tree.split(params, experiment.adaptation.trained)
    own = tree.split(start, experiment.adaptation.trained)[0]
    weights.export_run(experiment, tree.join(rest, own), tmp_path / "base")
    weights.export_run(experiment, merged, tmp_path / "merged")
    weights.export_adapter(experiment, params, tmp_path / "peft")
    read = {name: safetensors.read(tmp_path / name / "model.safetensors") for name in ("base", "merged")}
    base, whole = ({name: np.asarray(x) for name, x in read[at].items()} for at in ("base", "merged"))
    file = {name: np.asarray(x) for name, x in safetensors.read(tmp_path / "peft" / "adapter_model.safetensors").items()}
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    changed = set()
    for name, tensor in base.items():
        found = adapted(name, tensor, file, config)
        changed |= {name.rpartition(".")[0]} if found is not tensor else set()
        np.testing.assert_allclose(found, whole[name], atol=2e-6, err_msg=name)
    assert changed == {*config["target_modules"], *(config["modules_to_save"] or ())}

    again = weights.initial_adapter(experiment, tmp_path / "peft")
    assert again.keys() >= experiment.adaptation.added and again.keys() - experiment.adaptation.added >= tree.flatten(own).keys()
    for path, array in again.items():
        np.testing.assert_array_equal(array, tree.flatten(params)[path], err_msg=path)


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
    base = tree.split(params, experiment.adaptation.added)[1]
    one = experiment.adaptation.adapter.merge(params)
    for targets in ("(query|key|value)/kernel", "(query|value)/kernel"):  # the latter's second part lies behind one that nobody changed
        whole = dict(name="lora", kw=dict(rank=4, alpha=6.0, targets=(targets,)))
        other = experiment_of(tmp_path, kw, whole, init_from=dict(adapter=str(tmp_path / "peft")))
        added = weights.initial_adapter(other, tmp_path / "peft")
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
    with pytest.raises(UserError, match=r"counts 2.12132 times there, 2.82843 times here|adapt alpha: got 4.0, expected 3.0"):
        load(dict(name="lora", kw=dict(adapt["kw"], alpha=4.0)))
    with pytest.raises(UserError, match="adapt name: got 'ia3', expected 'lora'"):
        load(dict(name="ia3", kw={}))

    def export(adapt):
        other = experiment_of(tmp_path, kw, adapt)
        weights.export_adapter(other, moved(other), tmp_path / "other")
        return other

    with pytest.raises(UserError, match='have a form there that means the same; this adapter is "bottleneck"'):
        export(dict(name="bottleneck", kw=dict(width=2)))
    with pytest.raises(UserError, match="was trained and is no layer of its own there"):
        export(dict(name="lora", kw=dict(rank=2, targets=("query/kernel",), also_train=("query/kernel",))))
    experts = experiment_of(tmp_path, dict(LLAMA, num_experts=3), dict(name="lora", kw=dict(adapt["kw"], also_train=("mlp/",))))
    with pytest.raises(UserError, match=r"experts.0.w\d.weight was trained and is one of several that lie in one array here: merge"):
        weights.export_adapter(experts, moved(experts), tmp_path / "experts")
    export(dict(name="lora", kw=dict(adapt["kw"], also_train=("final_norm",))))
    with pytest.raises(UserError, match="model.norm.weight was trained there; name it in adapt.kw.also_train"):
        weights.initial_adapter(experiment, tmp_path / "other")


def test_ranks_that_peft_pruned_are_zeros_here(tmp_path):
    """It cuts them from the file and keeps the scale; a part of a matrix that it changed and that is no target here is an error."""
    kw, adapt = LLAMA, dict(name="adalora", kw=dict(rank=3, target_rank=2, targets=("(query|down)/kernel",)))
    experiment = experiment_of(tmp_path, kw, adapt)
    weights.export_adapter(experiment, moved(experiment), tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    file = {name: np.asarray(x) for name, x in safetensors.read(path).items()}
    cut = {name: x[:, [0, 2]] if name.endswith("lora_B") else x[[0, 2]] for name, x in file.items()}
    safetensors.write(path, {name: safetensors.Lazy.of(np.ascontiguousarray(x)) for name, x in cut.items()})
    found = weights.initial_adapter(experiment, tmp_path / "peft")
    for name, array in found.items():
        assert np.all(array[..., -1] == 0) if name.endswith(("lora_p", "lora_lambda")) else np.all(array[:, -1] == 0)
    lambdas = found["decoder/layers/block/attention/query/lora_lambda"]
    assert np.all(lambdas[:, :2] != 0)
    fused = experiment_of(tmp_path, {}, dict(name="lora", kw=dict(rank=2, targets=("(query|key)/kernel",))))
    weights.export_adapter(fused, moved(fused), tmp_path / "fused")
    with pytest.raises(UserError, match="key/kernel is changed there and is no target here"):
        other = experiment_of(tmp_path, {}, dict(name="lora", kw=dict(rank=2, targets=("(query|value)/kernel",))))
        weights.initial_adapter(other, tmp_path / "fused")
