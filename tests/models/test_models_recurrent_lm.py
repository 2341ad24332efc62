"""The recurrent language model: sizes, contexts longer than its rows, generation, padding, learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core import lookup
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import Sampling
from decoder_lab.models.recurrent_lm import VARIANTS, Model
from decoder_lab.tasks.language_modeling import Task

V, T = 11, 8
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (2, T)), jnp.int32)


@functools.cache
def made(**kw):
    model = Model(V, T, jnp.float32, **{"width": 12, "num_layers": 2, "embedding_stddev": 1.0, **kw})
    return model, jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]


@pytest.mark.parametrize(("variant", "count"), [("zaremba-medium", 19_775_200), ("zaremba-large", 66_022_000)])
def test_parameter_counts_of_the_published_sizes(variant, count):
    shapes = jax.eval_shape(Model(10000, 35, jnp.float32, **VARIANTS[variant]).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(
    "kw", [{}, dict(cell="gru", tie_embeddings=True, embedding_dim=8, num_layers=1), dict(output="maxout", readout_dim=6)]
)
def test_flops_are_six_a_multiplying_parameter(kw):
    model, params = made(**kw)
    kernels = sum(p.size for path, p in jax.tree_util.tree_leaves_with_path(params) if "kernel" in jax.tree_util.keystr(path))
    if model.tie_embeddings:
        kernels += params["token_embedding"]["embedding"].size
    assert model.flops_per_token(5) == 6.0 * kernels
    assert model.cell.upper() in model.describe("cpu", 5)


def test_a_language_model_has_no_parameters_of_attention():
    for kw in (dict(attention="additive", input_feeding=True), dict(attention="additive", context_input=True, output="deep")):
        assert set(made(**kw)[1]["recurrent"]) == {"layers_0", "layers_1"}


def test_documents_of_one_row_are_apart_and_padding_changes_nothing():
    """KNOWN_BUGS 4, 5: bit for bit nothing of the first document is in the second."""
    model, params = made()
    segments = jnp.asarray([[0, 1, 1, 1, 2, 2, 2, 2]])
    run = jax.jit(lambda x: model.apply({"params": params}, x, segments_BT=segments)[0])
    one, other = run(TOKENS[:1]), run(jnp.where(segments == 2, TOKENS[:1], (TOKENS[:1] + 1) % V))
    np.testing.assert_array_equal(one[:, 4:], other[:, 4:])
    assert np.abs(np.asarray(one - other))[:, 1:4].max() > 1e-4
    np.testing.assert_allclose(one[:, 4:], jax.jit(model.apply)({"params": params}, TOKENS[:1, 4:])[0], atol=1e-6)


def test_the_context_is_not_limited_by_the_rows_it_was_trained_on():
    """What is written after `max_length` tokens equals greedy choices of the uncached model over the whole text; prompts are ragged."""
    model, params = made()
    assert model.context_length is None
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2], [4]]
    found = Generator.from_model(model).generate(params, prompts, 6, Sampling(temperature=0.0))
    for prompt, (generation,) in zip(prompts, found, strict=True):
        text = list(prompt)
        for _ in range(6):
            padded = jnp.zeros((1, 20), jnp.int32).at[0, : len(text)].set(jnp.asarray(text))
            logits = jax.jit(lambda x: model.apply({"params": params}, x)[0])(padded)
            text.append(int(logits[0, len(text) - 1].argmax()))
        assert generation.tokens == text[len(prompt) :]


def test_it_learns_through_the_language_modelling_task():
    """A text of period 5 is predicted after its first token."""
    model, params = made(num_layers=1, dropout=0.1)
    task = Task(None)
    tokens = jnp.asarray((np.arange(T + 1)[None] + np.arange(5)[:, None]) % 5, jnp.int32)
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "weights": jnp.ones((5, T))}
    optimizer = optax.adam(0.03)

    def loss(params, key):
        total, weight = task.metrics(model, params, batch, rng=key)["loss"]
        return total / weight

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, key)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), 60))

    losses = train(params)[1]
    assert losses[0] > 1.5 and losses[-1] < 0.2


def test_the_model_is_found_by_name_with_the_decoders_fields():
    fields = lookup.fields("model", "recurrent_lm")
    assert {"variant", "cell", "width", "dropout", "tie_embeddings"} <= fields.keys()
    assert lookup.given("model", "recurrent_lm") == ("vocab_size", "max_length", "dtype")
    assert lookup.problems("model", "recurrent_lm", {name: field.default for name, field in fields.items()}) == []
