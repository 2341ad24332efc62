"""Question answering: best spans against a search by hand, windows joined, sums that padding does not change, learning."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core import lookup
from decoder_lab.data import examples as example_lib
from decoder_lab.data.tokenizer.word import Tokenizer
from decoder_lab.tasks.question_answering import MASKED, Task

CONTEXT = "Ann has a dog. Bo has 3 cats, Cy a fish."


def item(question, answer, context=CONTEXT, start=None):
    answers = [] if answer is None else [{"text": answer, "start": context.find(answer) if start is None else start}]
    return {"id": question, "question": question, "context": context, "answers": answers}


ITEMS = [
    item("What has Ann?", "dog"),
    item("What has Bo?", "3 cats"),
    item("What has Cy?", "a fish"),
    item("What has Di?", None),
]


def tokenizer():
    made = Tokenizer()
    made.load(made.train(iter([" ".join("What has Ann Bo Cy Di ? a dog . 3 cats , fish 光 荣".split())])))
    return made


def task_of(**kw):
    task = Task(tokenizer(), **{"length": 32, "max_question_length": 8, **kw})
    task.load(task.fit(ITEMS))
    return task


class Fixed:
    """A model that gives the logits it was made with."""

    def __init__(self, logits):
        self.logits = logits

    def apply(self, variables, batch, deterministic, method, rngs=None):
        return self.logits


@pytest.mark.parametrize("longest", [1, 2, 30])
def test_the_best_span_equals_a_search_over_all_spans(longest):
    task = task_of(max_answer_length=longest)
    rng = np.random.default_rng(longest)
    logits = jnp.asarray(rng.normal(size=(3, 7, 2)) * 3, jnp.float32)
    context = np.array([[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], np.int32)
    found = jax.jit(lambda: task.predict(Fixed(logits), None, {"context": jnp.asarray(context)}))()
    for b in range(2):
        places = [0, *np.flatnonzero(context[b])]
        log_p = {i: np.asarray(jax.nn.log_softmax(logits[b, np.array(places), i])) for i in (0, 1)}
        scores = {
            (places[i], places[j]): log_p[0][i] + log_p[1][j]
            for i, j in itertools.product(range(1, len(places)), repeat=2)
            if 0 <= places[j] - places[i] < longest
        }
        best = max(scores, key=scores.get)
        assert (int(found["start"][b]), int(found["end"][b])) == best
        np.testing.assert_allclose(found["score"][b], scores[best], rtol=1e-5)
        np.testing.assert_allclose(found["no_answer"][b], log_p[0][0] + log_p[1][0], rtol=1e-5)
    assert found["score"][2] <= MASKED and abs(float(found["no_answer"][2])) < 1e-6, "without a context there is no answer"


def test_windows_of_a_question_are_joined():
    parts = [dict(start=0, end=3, score=-4.0, no_answer=-0.1), dict(start=22, end=28, score=-0.5, no_answer=-3.0)]
    assert task_of().join(ITEMS[1], parts) == dict(start=22, end=28, score=-0.5, no_answer=-3.0, answer="3 cats")


def batch_of(task, items, rows=None, width=None):
    examples = example_lib.in_memory(part for raw in items for part in task.example(raw))
    widths = {name: examples.fixed.get(name) or width or int(examples.lengths(name).max()) for name in examples.ragged}
    e_B = np.arange(len(examples))
    return examples.take(np.concatenate([e_B, np.full((rows or len(e_B)) - len(e_B), -1)]), widths)


@functools.cache
def made(name):
    task = task_of(max_characters=3 if name == "bidaf" else 0)
    encoder = dict(name="recurrent", kw=dict(width=12, embedding_dim=8, bidirectional=True))
    kw = dict(width=6, embedding_dim=6, modelling_layers=1, characters="cnn", character_features=4)
    kw = dict(encoder=encoder) if name == "span_extractor" else kw
    given = dict(vocab_size=task.tokenizer.vocab_size, max_length=32, dtype=jnp.float32, **task.sizes())
    model = lookup.make("model", dict(name=name, kw=kw), **given)
    params = jax.jit(lambda key: model.init(key, task.dummy(), True, method=task.forward))(jax.random.key(0))["params"]
    return task, model, params


@pytest.mark.parametrize("name", ["span_extractor", "bidaf"])
def test_sums_do_not_depend_on_padding_or_filler_rows(name):
    """KNOWN_BUGS 3, 21: more padding and rows of zeros change no sum."""
    task, model, params = made(name)
    tight = batch_of(task, ITEMS)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.3 * jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    run = jax.jit(lambda params, batch: task.metrics(model, params, batch))
    plain, more = run(params, tight), run(params, batch_of(task, ITEMS, rows=6, width=24))
    assert plain["loss"][1] == 4
    for found in plain:
        np.testing.assert_allclose(more[found], plain[found], rtol=1e-4)


@pytest.mark.parametrize("name", ["span_extractor", "bidaf"])
def test_it_learns_a_few_questions(name):
    """Beside a row of zeros, whose gradients must not be NaN (KNOWN_BUGS 7)."""
    task, model, params = made(name)
    batch = batch_of(task, ITEMS, rows=5)
    optimizer = optax.adam(0.02)

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(lambda p: task.metrics(model, p, batch, rng=key)["loss"][0])(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def fit(params):
        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(0), 150))
        return task.predict(model, params, batch), losses

    found, losses = fit(params)
    assert losses[-1] < 0.1 * losses[0]
    joined = [task.join(raw, [part]) for raw, part in zip(ITEMS, task.decode(found, batch)[:4], strict=True)]
    assert [j["answer"] for j in joined[:3]] == ["dog", "3 cats", "a fish"]
    assert [j["no_answer"] > j["score"] for j in joined] == [False, False, False, True]
