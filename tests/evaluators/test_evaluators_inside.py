"""What looks inside a model: the loss of single tokens, norms by layer, a CRF's scores, an adapter's ranks; and their way to the disk."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core.errors import UserError
from decoder_lab.core.writer import jsonl
from decoder_lab.evaluators import adapter_ranks, crf_transitions, parameter_norms, token_loss
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import context as contexts
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps with the evaluators that fit it, its experiment, and the state that a third step would begin with."""
    folder = tmp_path_factory.mktemp("inside")
    (folder / "train.txt").write_text("never odd or even, </script><b>. " * 60)
    files = dict(train=str(folder / "train.txt"), validation=str(folder / "train.txt"))
    config = config_lib.resolve(
        dict(
            total_steps=2,
            batch_size=8,
            sequence_length=16,
            accumulate=1,
            lr=1e-2,
            schedule=dict(name="constant", kw=dict(warmup="0")),
            data=dict(source=dict(name="text", kw=files)),
            task=dict(name="language_modeling", kw=dict(loss_chunk=4, label_smoothing=0.1)),
            model=dict(name="decoder_only", kw=dict(num_layers=2, num_heads=2, width=8, scan_layers=True)),
            evaluators=dict(
                norms=dict(name="parameter_norms", every="1", kw=dict(histogram_bins=5)),
                tokens=dict(name="token_loss", every="2", kw=dict(limit=3, most_tokens=9)),
            ),
            checkpoint=dict(every="2", keep_best=0),
            log=dict(every="1", writers=dict(jsonl=dict(name="jsonl", kw={}))),
        )
    )
    experiment = experiments.Experiment(config, folder / "run", report=lambda line: None)
    states = []
    evaluator = parameter_norms.Evaluator
    spied = evaluator.run
    try:
        evaluator.run = lambda self, state: states.append(jax.tree.map(jnp.copy, state)) or spied(self, state)
        loop.train(experiment, folder / "run")
    finally:
        evaluator.run = spied
    return folder / "run", experiment, states


def details(workdir, name):
    return {row["step"]: row[name] for row in jsonl.read_records(workdir / jsonl.DETAILS) if name in row}


def test_norms_are_those_of_the_parameters_and_of_the_next_update(trained):
    """The update of step s is what the parameters change by from s to s + 1; layers that are stacked are told apart."""
    workdir, experiment, states = trained
    found = details(workdir, "norms/norms")
    assert list(found) == [0, 1, 2]
    before, after = (jax.device_get(states[i].params) for i in (0, 1))
    groups = found[0]["groups"]
    assert [g.rpartition("/")[2] for g in groups if "layer_" in g] == ["layer_0", "layer_1"]
    change = jax.tree.map(lambda a, b: b - a, before, after)
    for what, tree in (("parameters", before), ("updates", change)):
        total = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
        np.testing.assert_allclose(np.linalg.norm(found[0][what]), total, rtol=1e-4)
        stacked = [x for path, x in jax.tree_util.tree_leaves_with_path(tree) if "block" in jax.tree_util.keystr(path)]
        first = np.sqrt(sum(np.sum(np.square(x[0])) for x in stacked))
        at = next(i for i, name in enumerate(groups) if name.endswith("layer_0"))
        np.testing.assert_allclose(found[0][what][at], first, rtol=1e-4)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    gradient = next(line["train/grad_norm"] for line in lines if line["step"] == 1 and "train/grad_norm" in line)
    np.testing.assert_allclose(np.linalg.norm(found[0]["gradients"]), gradient, rtol=1e-4)
    bins = details(workdir, "norms/histograms")[2]["groups"][groups[0]]
    assert len(bins["counts"]) == 5 and len(bins["edges"]) == 6 and sum(bins["counts"]) > 0


def test_the_loss_of_each_token_is_plain_cross_entropy_also_where_training_smooths_and_cuts_into_chunks(trained):
    workdir, experiment, states = trained
    found = details(workdir, "tokens/texts")[2]
    context = contexts.Context(experiment)
    rows = context.rows("validation")
    batch = rows.take(np.array([i * rows.rows(None, 0) // 3 for i in range(3)]), None, 0)
    logits_BTV = jax.jit(lambda p, t: experiment.model.apply({"params": p}, t)[0])(states[2].params, batch["tokens"])
    logits_BTV = np.asarray(logits_BTV, np.float64)
    nll_BTV = np.log(np.exp(logits_BTV).sum(axis=-1, keepdims=True)) - logits_BTV
    nll_BT = np.take_along_axis(nll_BTV, batch["labels"][..., None], axis=-1)[..., 0]
    for row, text in enumerate(found["texts"]):
        assert "".join(text["tokens"]).replace("␣", " ") == experiment.tokenizer.decode(batch["labels"][row][:9])
        np.testing.assert_allclose(text["losses"], nll_BT[row, :9], rtol=1e-4)
    assert len(found["texts"]) == 3


def test_what_a_run_does_not_have_is_said():
    context = types.SimpleNamespace(
        params=lambda state: state, mesh=meshes.make_mesh(jax.devices()[:1]), task=types.SimpleNamespace(tags=("O", "B"))
    )
    with pytest.raises(UserError, match="no CRF"):
        crf_transitions.Evaluator(context).run({"a": {"kernel": np.zeros(2)}})
    with pytest.raises(UserError, match="adalora"):
        adapter_ranks.Evaluator(context).run(types.SimpleNamespace(adapter=None))
    assert token_loss.problems(dict(limit=0, most_tokens=1)) and parameter_norms.problems(dict(histogram_bins=-1))


def test_transitions_and_ranks_are_read_as_they_are():
    context = types.SimpleNamespace(
        params=lambda state: state, mesh=meshes.make_mesh(jax.devices()[:1]), task=types.SimpleNamespace(tags=("O", "B"))
    )
    between = np.array([[0.5, 1.0], [2.0, -3.0]], np.float32)
    params = {"head": {"crf_between": between, "crf_start": np.float32([1, 2]), "crf_end": np.float32([3, 4])}}
    found = crf_transitions.Evaluator(context).run(params)["scores"]
    assert found["between"] == between.tolist() and found["start"] == [1, 2] and found["end"] == [3, 4] and found["labels"] == ["O", "B"]
    kept = {"one": {"lora_lambda": np.float32([1, 0, 1])}, "stacked": {"lora_lambda": np.float32([[1, 1, 1], [0, 0, 1]])}}
    found = adapter_ranks.Evaluator(context).run(types.SimpleNamespace(adapter={"kept": kept}))
    assert found["total"] == 6 and found["ranks"]["ranks"] == [2, 3, 1] and found["ranks"]["groups"] == ["one", "stacked 0", "stacked 1"]
    assert found["ranks"]["most"] == [3, 3, 3]


@pytest.mark.parametrize(
    "path, layer",
    [("decoder/layer_12/attention/query/kernel", "decoder/layer_12"), ("token_embedding/embedding", "token_embedding"), ("bias", "bias")],
)
def test_a_layer_is_the_path_to_its_number(path, layer):
    assert parameter_norms.layer_of(path) == layer
    names = ["decoder/final_norm", "decoder/layer_10", "decoder/layer_9", "decoder/token_embedding", "encoder/layer_0"]
    assert sorted(names, key=parameter_norms._in_order) == [names[4], names[3], names[2], names[1], names[0]]
