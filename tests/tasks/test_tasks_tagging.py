"""Tagging from raw sentences to tags: losses that padding does not change, decoding that keeps to the scheme, and learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data import examples as example_lib
from decoder_lab.data.tokenizer.word import Tokenizer
from decoder_lab.ops import tag_schemes
from decoder_lab.tasks import intent_slots, tagging

ITEMS = [
    {"words": "play some jazz now".split(), "tags": ["O", "O", "B-style", "O"], "label": "music"},
    {"words": "book new york city".split(), "tags": ["O", "B-place", "I-place", "I-place"], "label": "travel"},
    {"words": "play york".split(), "tags": ["O", "B-style"], "label": "music"},
    {"words": ["go"], "tags": ["O"], "label": "travel"},
]


@functools.cache
def made(module, crf=True, **kw):
    tokenizer = Tokenizer()
    tokenizer.load(tokenizer.train(" ".join(item["words"]) for item in ITEMS))
    task = module.Task(tokenizer, 16, **kw)
    task.load(task.fit(ITEMS))
    name = {tagging: "tagger", intent_slots: "intent_slots"}[module]
    encoder = dict(name="bag_of_embeddings", kw=dict(embedding_dim=8, ngrams=1))
    given = dict(vocab_size=tokenizer.vocab_size, max_length=16, dtype=jnp.float32, **task.sizes())
    settings = dict(encoder=encoder, characters="cnn", character_dim=4, character_features=4, crf=crf, dropout=0.1)
    model = lookup.make("model", dict(name=name, kw=settings), **given)
    params = jax.jit(lambda key: model.init(key, task.dummy(), True, method=task.forward))(jax.random.key(0))["params"]
    return task, model, params


def batch_of(task, items, rows=None, width=6):
    examples = example_lib.in_memory(part for raw in items for part in task.example(raw))
    widths = {name: examples.fixed.get(name, width) if name not in examples.ragged else width for name in examples.ragged}
    e_B = np.arange(len(examples))
    return examples.take(np.concatenate([e_B, np.full((rows or len(e_B)) - len(e_B), -1)]), widths)


def mean_of(task, model, params, batch):
    sums = jax.jit(lambda p, b: task.metrics(model, p, b))(params, batch)
    return {k: (float(s), float(w)) for k, (s, w) in sums.items()}


@pytest.mark.parametrize("module", [tagging, intent_slots])
def test_sums_do_not_depend_on_batching_padding_or_filler_rows(module):
    """KNOWN_BUGS 3, 22: one batch, the same with more padding and filler rows, and one row at a time have the same sums."""
    task, model, params = made(module)
    whole = mean_of(task, model, params, batch_of(task, ITEMS))
    more = mean_of(task, model, params, batch_of(task, ITEMS, rows=6, width=9))
    single = [mean_of(task, model, params, batch_of(task, [item])) for item in ITEMS]
    assert whole["loss"][1] == (11 if module is tagging else 4)
    for name, (total, weight) in whole.items():
        np.testing.assert_allclose(more[name], (total, weight), rtol=1e-5)
        np.testing.assert_allclose([sum(s[name][0] for s in single), sum(s[name][1] for s in single)], (total, weight), rtol=1e-5)


@pytest.mark.parametrize("module", [tagging, intent_slots])
def test_nothing_but_filler_rows_is_finite(module):
    """KNOWN_BUGS 7, 8: no word, no loss, and zero gradients."""
    task, model, params = made(module)
    empty = jax.tree.map(lambda x: np.zeros_like(x), batch_of(task, ITEMS))
    loss = lambda p: task.metrics(model, p, empty, rng=jax.random.key(0))["loss"]  # noqa: E731
    (total, weight), grads = jax.jit(lambda p: (loss(p), jax.grad(lambda q: loss(q)[0])(p)))(params)
    assert (float(total), float(weight)) == (0.0, 0.0)
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("crf", [True, False])
def test_predictions_have_one_tag_a_word_and_keep_to_the_scheme(crf):
    """KNOWN_BUGS 22: tags go back to their own sentence; constrained decoding never gives I after O."""
    task, model, params = made(tagging, crf=crf, decoding="viterbi")
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 2 * jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    batch = batch_of(task, ITEMS, rows=6)
    predict = jax.jit(lambda p, b: task.predict(model, p, b))
    tags = task.decode(predict(params, batch), batch)
    assert [len(t) for t in tags] == [4, 4, 2, 1, 0, 0]
    assert all(tag_schemes.first_violation(t, "BIO") is None for t in tags)
    order = [2, 0, 3, 1]
    turned = {k: v[order + [4, 5]] for k, v in batch.items()}
    assert task.decode(predict(params, turned), turned)[:4] == [tags[i] for i in order]


def fit(task, model, params, steps=60):
    batch = batch_of(task, ITEMS)
    optimizer = optax.adam(0.03)

    def loss(params, key):
        total, weight = task.metrics(model, params, batch, rng=key)["loss"]
        return total / weight

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(1), steps)
    (params, _), losses = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), keys))(params)
    return params, losses


def test_it_learns_a_few_sentences():
    task, model, params = made(tagging)
    params, losses = fit(task, model, params)
    assert losses[-1] < 0.1 * losses[0]
    batch = batch_of(task, ITEMS)
    assert task.decode(jax.jit(lambda p: task.predict(model, p, batch))(params), batch) == [item["tags"] for item in ITEMS]
    assert mean_of(task, model, params, batch)["accuracy"] == (11, 11)


def test_tags_that_constrained_training_forbids_have_no_weight_and_are_counted():
    """Their loss was 1e9: of a split that breaks the scheme, of a span that is longer than a row. They are predicted all the same."""
    task, model, params = made(tagging, constrained_training=True)
    task.counts.clear()
    broken = [{"words": ["york", "city"], "tags": ["O", "I-place"]}, {"words": ["new"] * 18, "tags": ["B-place"] + ["I-place"] * 17}]
    batch = batch_of(task, [*ITEMS, *broken], width=16)
    assert batch["weights"].any(axis=1).tolist() == [True] * 4 + [False, True, False]
    assert [n for what, n in task.counts.items() if "constrained_training forbids" in what] == [2]
    sums = mean_of(task, model, params, batch)
    assert sums["loss"][1] == 11 + 16 and sums["loss"][0] < 1e3
    assert [len(tags) for tags in task.decode(task.predict(model, params, batch), batch)] == [4, 4, 2, 1, 2, 16, 2]
    free = made(tagging)[0]
    assert batch_of(free, [*ITEMS, *broken], width=16)["weights"].any(axis=1).all() and free.fingerprint() != task.fingerprint()


def test_the_joint_task_learns_both():
    task, model, params = made(intent_slots)
    params, _ = fit(task, model, params)
    batch = batch_of(task, ITEMS)
    found = task.decode(jax.jit(lambda p: task.predict(model, p, batch))(params), batch)
    assert [f["tags"] for f in found] == [item["tags"] for item in ITEMS]
    assert [f["label"] for f in found] == [item["label"] for item in ITEMS]


def test_the_joint_loss_is_the_sum_of_both():
    task, model, params = made(intent_slots, intent_weight=2.0)
    found = mean_of(task, model, params, batch_of(task, ITEMS))
    assert found["loss"][0] == pytest.approx(found["slot_loss"][0] + 2 * found["intent_loss"][0], rel=1e-5)


def test_parts_of_a_long_utterance_are_joined():
    task, _, _ = made(intent_slots)
    parts = [{"label": "music", "score": -2.0, "tags": ["O", "O"]}, {"label": "travel", "score": -0.1, "tags": ["B-place", "O"]}]
    assert task.join(ITEMS[0], parts) == {"label": "travel", "score": -0.1, "tags": ["O", "O", "B-place", "O"]}


def test_unknown_intents_and_missing_ones_are_errors():
    task, _, _ = made(intent_slots)
    with pytest.raises(UserError, match="musik.*music"):
        task.example({**ITEMS[0], "label": "musik"})
    with pytest.raises(UserError, match="two or more intents"):
        intent_slots.Task(task.tokenizer, 16).fit(ITEMS[::2])
    with pytest.raises(UserError, match='"book new york city" has no intent'):
        intent_slots.Task(task.tokenizer, 16).fit([ITEMS[0], {k: v for k, v in ITEMS[1].items() if k != "label"}])
    for wrong in (None, " ", ["music"]):  # each was an intent of its own, or none
        with pytest.raises(UserError, match='expected a label in field "label"'):
            intent_slots.Task(task.tokenizer, 16).fit([*ITEMS, {**ITEMS[1], "label": wrong}])
        with pytest.raises(UserError, match='expected a label in field "label"'):
            task.example({**ITEMS[0], "label": wrong})


def test_an_utterance_without_an_intent_counts_for_its_slots_alone():
    """It was trained and scored as the first intent."""
    task, model, params = made(intent_slots)
    without = [*ITEMS[:3], {k: v for k, v in ITEMS[3].items() if k != "label"}]
    whole, some, three = (mean_of(task, model, params, batch_of(task, items, rows=6)) for items in (ITEMS, without, ITEMS[:3]))
    assert some["slot_loss"] == whole["slot_loss"] and some["intent_accuracy"] == three["intent_accuracy"]
    np.testing.assert_allclose(some["intent_loss"], three["intent_loss"], rtol=1e-6)
    np.testing.assert_allclose(some["loss"], (whole["slot_loss"][0] + three["intent_loss"][0], 4), rtol=1e-6)


def test_word_dropout_happens_in_training_only():
    """KNOWN_BUGS 28: evaluation is deterministic."""
    task, model, params = made(tagging, word_dropout=0.5)
    batch = batch_of(task, ITEMS)
    loss = jax.jit(lambda rng: task.metrics(model, params, batch, rng=rng)["loss"][0])
    plain = jax.jit(lambda: task.metrics(model, params, batch)["loss"][0])
    assert float(loss(jax.random.key(1))) != float(loss(jax.random.key(2)))
    np.testing.assert_allclose(float(plain()), mean_of(*made(tagging), batch)["loss"][0], rtol=1e-6)

    class NoUnknown:
        eos_id = None

    with pytest.raises(UserError, match="no unknown token"):
        tagging.Task(NoUnknown(), 16, word_dropout=0.1)
