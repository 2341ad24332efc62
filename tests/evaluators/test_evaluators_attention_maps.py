"""Attention over a training: the weights are those that the model computes with, of the first texts, and few enough to be kept."""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer.word import Tokenizer
from decoder_lab.evaluators import attention_maps
from decoder_lab.parallel import mesh as meshes
from decoder_lab.report import kinds
from decoder_lab.serving import attention
from decoder_lab.tasks import language_modeling, masked_language_modeling, sequence_to_sequence

SMALL = dict(num_layers=2, num_heads=2, width=8)
PAIR_MODEL = {half: dict(name="transformer", kw=dict(SMALL, num_layers=1)) for half in ("encoder", "decoder")}


@functools.cache
def tokenizer():
    made = Tokenizer()
    made.load(made.train(["a b c d"]))
    return made


class Rows:
    """The rows of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def rows(self, epoch, seed):
        return len(self.batch["tokens"])

    def take(self, rows_B, epoch, seed):
        return {name: x[rows_B] for name, x in self.batch.items()}


def evaluator(name, kw, task, batch, **options):
    """Returns (an evaluator over these rows, the model, its parameters)."""
    given = dict(vocab_size=tokenizer().vocab_size, source_vocab_size=tokenizer().vocab_size, max_length=16, dtype=jnp.float32)
    model = lookup.make("model", dict(name=name, kw=kw), **given)
    params = jax.jit(lambda: model.init(jax.random.key(0), task.dummy(), True, method=task.forward))()["params"]
    params = jax.tree.map(lambda x: x * 3, params)  # so that heads look at something in particular
    context = types.SimpleNamespace(
        model=model, task=task, tokenizer=tokenizer(), source_tokenizer=tokenizer(), mesh=meshes.make_mesh(jax.devices()[:1]),
        params=lambda state: state, rows=lambda split: Rows(batch), compiled=jax.jit,
    )  # fmt: skip
    return attention_maps.Evaluator(context, **options), model, params


def ids(text):
    return np.asarray(tokenizer().encode(text), np.int32)


def compare(detail, wanted, rows):
    """A detail is what `--mode=attention` gives of the same text, of its first rows."""
    assert kinds.problem(detail) is None and detail["rows"] == wanted.rows[:rows]
    assert [layer["name"] for layer in detail["layers"]] == [name for name, _ in wanted.layers]
    columns = len(detail["columns"])
    assert detail["columns"] == wanted.columns[:columns]
    for layer, (_, weights_NTS) in zip(detail["layers"], wanted.layers, strict=True):
        np.testing.assert_allclose(layer["heads"], weights_NTS[:, :rows, :columns], atol=0.00501)


def test_a_language_model_shows_the_beginning_of_its_first_text():
    """A row of two texts; what stands behind the tokens that are shown is not computed and changes nothing."""
    task = language_modeling.Task(tokenizer(), loss_chunk=4)
    one, two = ids("a b c d c b a b"), ids("d d a")
    tokens = np.concatenate([one, two])[None]
    batch = dict(tokens=tokens, labels=tokens, weights=np.ones(tokens.shape, np.float32))
    batch |= dict(segments=np.repeat([[1, 2]], [len(one), len(two)], axis=1), positions=np.r_[: len(one), : len(two)][None])
    batch = {name: np.repeat(x, 3, axis=0) for name, x in batch.items()}
    made, model, params = evaluator("decoder_only", dict(SMALL, scan_layers=True), task, batch, limit=2)
    wanted = attention.align(model, params, task, tokenizer(), "a b c d c b a b", None, None)
    found = made.run(params)
    assert list(found) == ["0", "1"] and found["0"] == found["1"] and found["0"]["text"] == wanted.text
    compare(found["0"], wanted, len(one))
    compare(dataclasses.replace(made, most_tokens=5).run(params)["0"], wanted, 5)
    batch["weights"][:, :6] = 0  # as of a long question before its answer
    assert list(dataclasses.replace(made, most_tokens=5).run(params)) == ["0", "1"]


def test_a_model_of_pairs_shows_where_its_target_looks_in_the_source():
    task = sequence_to_sequence.Task(tokenizer(), tokenizer(), 16)
    pairs = [task.example({"source": s, "target": t}) for s, t in (("a b c d", "b a d"), ("a", "b"))]
    sizes = {name: max(len(pair[name]) for pair in pairs) for name in pairs[0]}
    batch = {name: np.stack([np.pad(pair[name], (0, sizes[name] - len(pair[name]))) for pair in pairs]) for name in sizes}
    made, model, params = evaluator("encoder_decoder", PAIR_MODEL, task, batch, limit=2)
    found = made.run(params)
    compare(found["0"], attention.align(model, params, task, tokenizer(), "a b c d", "b a d", tokenizer()), 4)
    assert (found["1"]["rows"], found["1"]["columns"], found["1"]["text"]) == (["b", "⟨eos⟩"], ["a", "⟨eos⟩"], "b")
    np.testing.assert_allclose(np.sum([layer["heads"] for layer in found["1"]["layers"]], axis=-1), 1, atol=0.011)


def test_many_weights_become_means_and_then_fewer_tokens(monkeypatch):
    task, tokens = masked_language_modeling.Task(tokenizer()), np.tile(ids("a b c d"), 2)[None]
    batch = dict(tokens=tokens, labels=tokens, weights=np.ones(tokens.shape, np.float32))
    made, _, params = evaluator("masked_lm", dict(encoder=dict(name="transformer", kw=SMALL)), task, batch)
    sizes = {}
    for most in (1_000, 8 * 8 * 2, 32):
        monkeypatch.setattr(attention_maps, "MOST_WEIGHTS", most)
        detail = made.run(params)["0"]
        assert kinds.problem(detail) is None
        sizes[most] = [(len(layer["heads"]), len(detail["rows"])) for layer in detail["layers"]]
    assert sizes == {1_000: [(2, 8)] * 2, 128: [(1, 8)] * 2, 32: [(1, 4)] * 2}
    assert detail["layers"][0]["name"].endswith(", mean of 2 heads") and len(json.dumps(detail)) < 600


def test_what_has_no_attention_is_said():
    tokens = ids("a b")[None]
    batch = dict(tokens=tokens, labels=tokens, weights=np.ones(tokens.shape, np.float32))
    made, _, params = evaluator("recurrent_lm", dict(width=8), language_modeling.Task(tokenizer()), batch)
    with pytest.raises(UserError, match="no attention weights to show"):
        made.run(params)
    del batch["labels"]
    made.context.rows = lambda split: Rows(dict(batch, source=tokens))
    with pytest.raises(UserError, match="no single text a row"):
        made.run(params)
    assert attention_maps.problems(dict(limit=0, most_tokens=1))
