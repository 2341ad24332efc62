"""Prefix language modelling: the row of a pair, a loss on the target only, and generation from what training sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data import examples as example_lib
from decoder_lab.data.packing import packed
from decoder_lab.data.tokenizer.byte import Tokenizer
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY
from decoder_lab.models.decoder_only import Model
from decoder_lab.models.recurrent_lm import Model as Recurrent
from decoder_lab.tasks.prefix_language_modeling import Task, problems

EOS = 256
PAIR = {"source": "abcd", "target": "xy"}


def padded(example, length):
    return {k: np.pad(v, (0, length - len(v)))[None] for k, v in example.items()}


@pytest.fixture(scope="module")
def made():
    task = Task(Tokenizer(), 16)
    model = Model(257, 16, jnp.float32, num_layers=2, num_heads=2, width=16, init_stddev=0.3)
    params = jax.jit(lambda: model.init(jax.random.key(0), task.dummy(), True, method=task.forward))()["params"]
    return task, model, params


def test_the_row_of_a_pair():
    """KNOWN_BUGS 9, 12: the eos behind the source begins the target, the last one is learned, nothing of the source is."""
    example = Task(Tokenizer(), 16).example(PAIR)
    assert example["tokens"].tolist() == [97, 98, 99, 100, EOS, 120, 121]
    assert example["labels"].tolist() == [98, 99, 100, EOS, 120, 121, EOS]
    assert example["weights"].tolist() == [0, 0, 0, 0, 1, 1, 1] and example["prefix"].tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert Task(Tokenizer(), 16).prompt(PAIR) == {"tokens": [97, 98, 99, 100, EOS], "inputs": None}


def test_long_pairs_are_cut_or_dropped_and_counted():
    task = Task(Tokenizer(), 8, max_source_length=3, max_target_length=2)
    assert task.example(PAIR)["labels"].tolist() == [98, 99, EOS, 120, 121]
    assert sum(task.counts.values()) == 2
    assert Task(Tokenizer(), 8, max_source_length=3, too_long="drop").example(PAIR) == []
    assert len(Task(Tokenizer(), 8).example({"source": "a" * 50, "target": "b" * 50})["tokens"]) == 8
    plain = dict(label_smoothing=0.0, max_source_length=None, max_target_length=None)
    wrong = [dict(max_source_length=8), dict(max_source_length=12), dict(max_target_length=9)]  # no room for the other side
    for kw in (dict(max_source_length=6, max_target_length=3), *wrong):
        assert "do not fit a row of 8" in problems({**plain, **kw}, 8)[0]
    assert problems(plain, 8) == problems({**plain, "max_source_length": 6}, 8) == problems({**plain, **wrong[0]}, None) == []
    with pytest.raises(UserError, match='field "target", which is not there .it has source.'):
        task.example({"source": "a"})
    assert len(problems(dict(label_smoothing=1.0, max_source_length=1, max_target_length=None), 8)) == 2


def test_padding_changes_nothing_and_the_source_is_read_in_both_directions(made):
    task, model, params = made
    example = task.example(PAIR)
    forward = jax.jit(lambda b: model.apply({"params": params}, b, True, method=task.forward))
    short, long = forward(padded(example, 7)), forward(padded(example, 12))
    np.testing.assert_allclose(long[:, :7], short, atol=1e-5)
    other = dict(example, tokens=np.where(np.arange(7) == 3, 105, example["tokens"]))
    assert np.abs(forward(padded(other, 7))[0, 0] - short[0, 0]).max() > 1e-4
    later = dict(example, tokens=np.where(np.arange(7) == 6, 105, example["tokens"]))
    np.testing.assert_allclose(forward(padded(later, 7))[:, :6], short[:, :6], atol=1e-5)
    one_way = Task(Tokenizer(), 16, bidirectional_prefix=False)
    causal = [model.apply({"params": params}, padded(e, 7), True, method=one_way.forward)[0, :3] for e in (example, other)]
    np.testing.assert_allclose(*causal, atol=1e-5)


def test_pairs_that_share_a_row_are_as_if_alone(made):
    """KNOWN_BUGS 4."""
    task, model, params = made
    pairs = [task.example(pair) for pair in (PAIR, {"source": "bca", "target": "zw"}, {"source": "c", "target": "d"})]
    examples = example_lib.in_memory(pairs)
    ((_, batch),) = packed.Packing(examples, 16).plan(1).evaluation()
    assert batch["segments"].max() == 3
    sums = jax.jit(lambda b: task.metrics(model, params, b)["nll"])
    alone = [sums(padded(pair, 16)) for pair in pairs]
    np.testing.assert_allclose(sums(batch), np.sum(alone, axis=0), rtol=1e-5)


def test_what_is_generated_is_what_teacher_forcing_says(made):
    """KNOWN_BUGS 6, 17: pairs of different lengths in one batch, the prefix prefilled into a cache."""
    task, model, params = made
    generator = Generator.for_task(model, task.tokenizer, task)
    raws = [PAIR, {"source": "q", "target": ""}]
    results = generator.generate(params, [task.prompt(raw)["tokens"] for raw in raws], 4, GREEDY)
    for raw, [text] in zip(raws, results, strict=True):
        source = task.prompt(raw)["tokens"]
        row = np.array([*source, *text.tokens], np.int32)
        batch = dict(tokens=row, segments=np.ones_like(row), prefix=(np.arange(len(row)) < len(source) - 1).astype(np.int32))
        logits = np.asarray(model.apply({"params": params}, padded(batch, 16), True, method=task.forward))[0]
        for i, token in enumerate(text.tokens):
            assert logits[len(source) - 1 + i, token] >= logits[len(source) - 1 + i].max() - 1e-4


def test_only_a_model_that_can_is_asked_to_read_in_both_directions():
    model = Recurrent(257, 16, jnp.float32, width=4)
    with pytest.raises(UserError, match="bidirectional_prefix=false"):
        model.init(jax.random.key(0), Task(Tokenizer(), 16).dummy(), True, method=Task(Tokenizer(), 16).forward)
    task = Task(Tokenizer(), 16, bidirectional_prefix=False)
    assert model.init(jax.random.key(0), task.dummy(), True, method=task.forward)


def test_the_extent_of_a_source_is_what_is_read_and_what_is_cut():
    task = Task(Tokenizer(), 8, max_source_length=3)
    assert task.extent({"source": "abcde"}) == (5, 2) and task.extent({"source": "abc"}) == (3, 0) and task.extent({"source": " "})[0] == 0
