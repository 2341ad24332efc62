"""Question answering: best spans against a search by hand, windows joined, sums that padding does not change, learning."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_config

from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup
from decoder_lab.data import examples as example_lib
from decoder_lab.data import interpreter
from decoder_lab.data.tokenizer.word import Tokenizer
from decoder_lab.parallel import mesh as meshes
from decoder_lab.tasks.question_answering import MASKED, Task
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop

ROOT = pathlib.Path(__file__).resolve().parents[2]
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


MODELS = {
    "recurrent": ("span_extractor", dict(encoder=dict(name="recurrent", kw=dict(width=12, embedding_dim=8, bidirectional=True)))),
    "transformer": (
        "span_extractor",
        dict(encoder=dict(name="transformer", kw=dict(num_layers=1, num_heads=2, width=16, init_stddev=0.3))),
    ),
    "bidaf": ("bidaf", dict(width=6, embedding_dim=6, modelling_layers=1, characters="cnn", character_features=4)),
}


@functools.cache
def made(case):
    name, kw = MODELS[case]
    task = task_of(max_characters=3 if name == "bidaf" else 0)
    given = dict(vocab_size=task.tokenizer.vocab_size, max_length=32, dtype=jnp.float32, **task.sizes())
    model = lookup.make("model", dict(name=name, kw=kw), **given)
    params = jax.jit(lambda key: model.init(key, task.dummy(), True, method=task.forward))(jax.random.key(0))["params"]
    return task, model, params


@pytest.mark.parametrize("name", MODELS)
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


@pytest.mark.parametrize("name", MODELS)
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


THRESHOLDS = {"always": -1e9, "answers": 0.0, "never": 1e9}  # how readily "" is answered


def test_questions_without_an_answer_are_trained_on_and_scored_by_the_rules_of_squad_2(tmp_path, monkeypatch):
    """The config with no_answer, small: a threshold that always answers "" is right on one kind of question alone, one that never does is
    not, since the model has learned not to answer by a mark, which those rules take for no answer."""
    monkeypatch.setattr(meshes, "make_mesh", functools.partial(meshes.make_mesh, jax.devices()[:1]))
    names = tuple(name for name in interpreter.names() if name.startswith("unittest/"))  # parsing the whole library takes long
    monkeypatch.setattr(interpreter, "names", lambda: names)
    full = config_lib.load(f"{ROOT}/experiments/question_answering/stdlib_parameters.py:no_answer=true")
    answers = full.evaluators.answers.to_dict()
    assert full.data.source.kw.no_answer and answers["kw"]["no_answer_threshold"] == THRESHOLDS["answers"]
    config = json.loads(config_lib.to_json(small_config.small(full))) | dict(total_steps=40)
    asked = {name: {**answers["kw"], "no_answer_threshold": threshold, "limit": 128} for name, threshold in THRESHOLDS.items()}
    config["evaluators"] = {name: dict(name="question_answering", every="40", kw=kw) for name, kw in asked.items()}
    assert loop.train(experiments.Experiment(config_lib.resolve(config), tmp_path, report=lambda line: None), tmp_path) == 0
    found = {}
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        found |= json.loads(line)
    kinds = {name: [found[f"{name}/{kind}exact_match"] for kind in ("has_answer_", "", "no_answer_")] for name in THRESHOLDS}
    assert np.isfinite(found["train/loss"])
    assert kinds["always"][0] == 0 and kinds["always"][2] == 100 > kinds["never"][2]
    assert kinds["never"][0] >= kinds["answers"][0] and kinds["never"][2] <= kinds["answers"][2]
    without = kinds["always"][1] / 100  # the share of questions that have none
    assert 0 < without < 0.5
    for with_answer, mean, no_answer in kinds.values():
        np.testing.assert_allclose(mean, (1 - without) * with_answer + without * no_answer, atol=1e-4)
