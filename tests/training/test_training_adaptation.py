"""Adapted runs from beginning to end: what is trained, what is saved, going on, merging, and what begins from them."""

import argparse
import contextlib
import json
import pathlib
import random

import jax
import numpy as np
import pytest

from decoder_lab import commands
from decoder_lab.core import config as config_lib
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.training import adaptation, loop, resume
from decoder_lab.training import experiment as experiments

STEPS = 12
ADALORA = dict(name="adalora", kw=dict(rank=3, target_rank=2, every="1", warmup="2", final="4", dropout=0.1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts, and a run "base" that was trained on them."""
    path = tmp_path_factory.mktemp("adapted")
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 9))) for _ in range(50)]
    for name, size in (("train", 2000), ("val", 200)):
        (path / f"{name}.txt").write_text(" ".join(rng.choice(words) for _ in range(size)))
    train(make_config(path), path / "base")
    return path


def make_config(path, **changes):
    files = dict(train=str(path / "train.txt"), validation=str(path / "val.txt"))
    delta = dict(
        total_steps=STEPS,
        batch_size=8,
        sequence_length=16,
        lr=1e-2,
        data=dict(source=dict(name="text", kw=files)),
        model=dict(name="decoder_only", kw=dict(num_layers=2, num_heads=2, width=16, dropout=0.1, scan_layers=True)),
        evaluators=dict(val=dict(name="mean", every="6", kw={})),
        checkpoint=dict(every="6", keep=2),
        log=dict(every="2", writers=dict(jsonl=dict(name="jsonl", kw={}))),
    )
    return config_lib.resolve({**delta, **changes})


def adapted(path, adapt, **changes):
    source = changes.pop("source", path / "base")
    return make_config(path, adapt=adapt, init_from=dict(workdir=str(source)), **changes)


def experiment_of(config, workdir):
    return experiments.Experiment(config, pathlib.Path(workdir), report=lambda line: None)


def train(config, workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    assert loop.train(experiment_of(config, workdir), workdir) == 0
    (workdir / "config.json").write_text(config_lib.to_json(config))


def restored(config, workdir, step="latest"):
    experiment = experiment_of(config, workdir)
    return resume.restore(experiment, resume.make_saver(config, workdir, print), step)


def assert_equal(one, other):
    one, other = (tree.flatten(x) for x in (one, other))
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other[path]), err_msg=path)


def test_resumed_equals_uninterrupted_and_nothing_else_changes(folder):
    """Parameters, averages, AdaLoRA's memory, bit for bit; the rest is the base's to the bit, whatever decays (KNOWN_BUGS 16, 19)."""
    config = adapted(folder, ADALORA, ema=0.9, weight_decay=0.5)
    train(config, folder / "whole")
    train(config, folder / "cut")
    (folder / "cut" / "checkpoints" / str(STEPS)).rename(folder / "gone")
    train(config, folder / "cut")
    (a, *_), (b, *_) = restored(config, folder / "whole"), restored(config, folder / "cut")
    assert_equal(*(s.replace(key=jax.random.key_data(s.key)) for s in (a, b)))
    base, _ = resume.all_params(experiment_of(make_config(folder), folder / "base"), "best")
    assert_equal(a.frozen, base)
    logged = {name for line in (folder / "whole" / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    assert "train/penalty" in logged and "val/penalty" not in logged  # nor is it in either loss
    # AdaLoRA ends with exactly its budget of ranks, and so does its average
    kept = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(a.adapter["kept"])])
    assert kept.size == 2 * 2 * 3 and kept.sum() == 2 * 2 * 2
    for params in (a.params, a.ema):
        ranks = [np.count_nonzero(x) for path, x in tree.flatten(params).items() if path.endswith("lora_lambda")]
        assert sum(ranks) == 2 * 2 * 2


def test_what_a_schedule_free_optimiser_gives_keeps_to_the_budget(folder, tmp_path):
    """Its evaluation parameters come out of its state, where ranks that were set to zero have values (KNOWN_BUGS 16)."""
    config = adapted(folder, ADALORA, optimizer=dict(name="schedule_free_adamw", kw={}))
    experiment = experiment_of(config, tmp_path)
    state = experiment.init_state()
    state = state.replace(
        opt_state=jax.tree.map(lambda x: x + 1 if x.dtype == np.float32 else x, state.opt_state),
        adapter={**state.adapter, "kept": jax.tree.map(lambda x: x.at[..., 0].set(0), state.adapter["kept"])},
    )
    lambdas = [x for path, x in tree.flatten(experiment.evaluation_params(state)).items() if path.endswith("lora_lambda")]
    assert lambdas and all(np.all(x[..., 0] == 0) and np.all(x[..., 1:] != 0) for x in lambdas)


@pytest.mark.parametrize(("adapt", "names"), [("ia3", ("ia3_output", "ia3_input")), ("dora", ("lora_magnitude",))])
def test_weight_decay_does_not_undo_what_begins_at_one(adapt, names, folder, tmp_path):
    """Vectors that scale, and lengths, are neutral at one and at a column's length: towards zero they would switch the model off."""
    experiment = experiment_of(adapted(folder, dict(name=adapt, kw={}), weight_decay=0.5), tmp_path)
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), experiment.adaptation.trained_shapes)
    updates, _ = experiment.optimizer.update(jax.tree.map(np.zeros_like, params), experiment.optimizer.init(params), params)
    for path, update in tree.flatten(updates).items():
        assert np.all(update == 0) if path.endswith(names) else True, path
    assert any(path.endswith(names) for path in tree.flatten(updates))


def test_a_checkpoint_holds_what_is_trained(folder):
    state, meta, _ = restored(adapted(folder, ADALORA, ema=0.9, weight_decay=0.5), folder / "whole")
    record = json.loads((folder / "whole" / "checkpoints" / str(STEPS) / "checkpoint.json").read_text())
    saved = {path for path in record["arrays"] if path.startswith("params/")}
    assert saved == {f"params/{path}" for path in tree.flatten(state.params)} and all("lora_" in path for path in saved)
    assert not any("frozen" in path for path in record["arrays"])
    assert meta["base"]["workdir"] == str(folder / "base") and len(meta["base"]["fingerprint"]) == 8


def test_another_base_is_an_error(folder):
    elsewhere = make_config(folder, adapt=ADALORA, ema=0.9, weight_decay=0.5)
    with pytest.raises(UserError, match=r"trained on \(.*base, step \d+\) are no longer the same: their fingerprint was"):
        restored(elsewhere, folder / "whole")


def test_a_base_drawn_from_the_seed(folder, tmp_path):
    config = make_config(folder, adapt=dict(name="bottleneck", kw=dict(width=2)), total_steps=1, checkpoint=dict(every="1", keep=1))
    train(config, tmp_path / "run")
    state, meta, _ = restored(config, tmp_path / "run")
    assert_equal(state.frozen, experiment_of(config, tmp_path / "run").init_params())
    assert meta["base"].keys() == {"fingerprint"}


def test_merge_makes_an_ordinary_run(folder, tmp_path):
    """Evaluated alike, of the config without an adapter, and nothing of its base is needed any more."""
    config = adapted(folder, ADALORA, ema=0.9, weight_decay=0.5)
    flags = argparse.Namespace(
        workdir=folder / "whole", output=str(tmp_path / "merged"), checkpoint="latest", config=None, mode="merge", distributed="off"
    )
    assert commands.merge(config, flags) == 0
    plain = config_lib.from_json((tmp_path / "merged" / "config.json").read_text())
    assert plain.adapt is None and not plain.init_from.workdir
    losses = []
    for made, workdir in ((config, folder / "whole"), (plain, tmp_path / "merged")):
        experiment = experiment_of(made, workdir)
        evaluators = {name: evaluator for name, (evaluator, _) in experiments.make_evaluators(experiment).items()}
        saver = resume.make_saver(made, workdir, print)
        step, found = loop.evaluate(experiment, saver, "latest", evaluators)
        assert step == STEPS
        losses.append(found["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(UserError, match="is not an empty folder"):
        commands.merge(config, flags)
    with pytest.raises(UserError, match="nothing to merge"):
        commands.merge(plain, argparse.Namespace(**{**vars(flags), "workdir": tmp_path / "merged", "output": str(tmp_path / "again")}))


def test_beginning_from_an_adapted_run(folder, tmp_path):
    """Another run takes what it computes, merged; the same adapter goes on where it was; one that cannot be merged says so."""
    whole = experiment_of(adapted(folder, ADALORA, ema=0.9, weight_decay=0.5), folder / "whole")
    params, _ = resume.all_params(whole, "best")
    plain = experiment_of(make_config(folder, init_from=dict(workdir=str(folder / "whole"))), tmp_path / "plain")
    assert_equal(resume.base_params(plain)[0], whole.adaptation.adapter.merge(params))
    same = experiment_of(adapted(folder, ADALORA, source=folder / "whole"), tmp_path / "same")
    own, added = resume.base_params(same)
    assert added.keys() == same.adaptation.added and all("lora_" in path for path in added)
    assert_equal(tree.join(own, tree.nest(added)), params)
    assert_equal(same.init_state(own, added).params, tree.split(params, same.adaptation.added)[0])
    train(adapted(folder, dict(name="prefix", kw=dict(num_tokens=2)), total_steps=1), tmp_path / "prefix")
    other = experiment_of(make_config(folder, init_from=dict(workdir=str(tmp_path / "prefix"))), tmp_path / "other")
    with pytest.raises(UserError, match="prefix cannot be merged"):
        resume.base_params(other)


def test_what_is_neither_loaded_nor_trained_is_an_error(folder, tmp_path):
    config = make_config(folder, adapt=dict(name="lora", kw={}), init_from=dict(workdir=str(folder / "base"), exclude=("final_norm",)))
    with pytest.raises(UserError, match="would stay random:\n  final_norm/bias\n  final_norm/scale"):
        resume.base_params(experiment_of(config, tmp_path))


def test_the_start_says_what_is_trained(folder, tmp_path):
    experiment = experiment_of(adapted(folder, dict(name="lora", kw=dict(rank=2))), tmp_path)
    total = tree.count(experiment.adaptation.base_shapes) + 256
    assert f"lora: 256 of {total:,} parameters are trained ({256 / total:.2%})" in experiment.summary()


def test_virtual_tokens_need_one_text_a_row(folder, tmp_path):
    data = dict(source=dict(name="text", kw=dict(train=str(folder / "train.txt"), validation=str(folder / "val.txt"))))
    config = make_config(folder, adapt=dict(name="prompt", kw={}), data=dict(**data, packing=dict(name="documents", kw={})))
    with pytest.raises(UserError, match='rows of data.packing "documents" hold several'):
        experiment_of(config, tmp_path).train_step()


@pytest.mark.parametrize(
    "decoder, asked",
    [("transformer", dict(cross_window=2)), ("recurrent", dict(window=2, attention="dot")), ("transformer", {}), ("recurrent", {})],
)
def test_virtual_tokens_move_no_window_of_the_source(decoder, asked, tmp_path):
    """Local attention goes by a target's own places, which tokens before it would change."""
    delta = dict(config_lib.read_file("experiments/sequence_to_sequence/copy.py"))
    delta["model"] = dict(delta["model"], kw=dict(delta["model"]["kw"], share_embeddings=False, decoder=dict(name=decoder, kw=asked)))
    delta["adapt"] = dict(name="prompt", kw=dict(side="decoder"))
    made = experiment_of(config_lib.resolve(delta), tmp_path)
    expected = pytest.raises(UserError, match="moves its places, by which decoder.kw.(cross_)?window chooses")
    with expected if asked else contextlib.nullcontext():
        adaptation.one_text_a_row(made.adaptation.adapter, made)


def test_the_tokenizer_is_that_of_the_base(folder, tmp_path):
    """The same settings on another text would give other ids to the same rows of the embedding."""
    (tmp_path / "text.txt").write_text("zyx wvu " * 50)
    files = dict(train=str(tmp_path / "text.txt"), validation=str(tmp_path / "text.txt"))
    letters = dict(tokenizer=dict(name="character", kw={}))
    first = make_config(folder, data=dict(source=make_config(folder).data.source.to_dict(), **letters))
    theirs = experiment_of(first, tmp_path / "first").tokenizer
    (tmp_path / "first" / "config.json").write_text(config_lib.to_json(first))
    data = dict(source=dict(name="text", kw=files), **letters)
    own = experiment_of(make_config(folder, data=data), tmp_path / "own").tokenizer
    taken = experiment_of(make_config(folder, data=data, init_from=dict(workdir=str(tmp_path / "first"))), tmp_path / "second").tokenizer
    assert taken.fingerprint() == theirs.fingerprint() != own.fingerprint()
