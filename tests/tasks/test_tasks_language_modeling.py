"""Language modelling: training's extras stay out of evaluation, and chunks of logits change nothing."""

import jax
import numpy as np
import pytest

from decoder_lab.models.decoder_only import Model
from decoder_lab.tasks.language_modeling import Task

V, B, T = 11, 4, 8


@pytest.fixture(scope="module")
def made():
    model = Model(vocab_size=V, max_length=T, dtype=np.dtype("float32"), num_layers=1, num_heads=2, width=8, dropout=0.1)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, size=(B, T + 1), dtype=np.int32)
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "weights": (rng.random((B, T)) < 0.7).astype(np.float32)}
    params = jax.jit(model.init)(jax.random.key(0), tokens[:, :-1])["params"]
    return model, jax.tree.map(lambda p: p * 3, params), batch


def metrics(task, model, params, batch, rng=None):
    return jax.jit(lambda p, b: task.metrics(model, p, b, rng=rng))(params, batch)


def test_evaluation_is_plain_cross_entropy(made):
    """Label smoothing, z-loss and dropout belong to training: with them set, evaluation gives the same numbers as without."""
    plain = metrics(Task(None), *made)
    regularised = metrics(Task(None, label_smoothing=0.1, z_loss=0.01), *made)
    for name in plain:
        np.testing.assert_array_equal(plain[name], regularised[name])
    assert plain["loss"] == plain["nll"]
    key = jax.random.key(1)
    trained = metrics(Task(None, label_smoothing=0.1, z_loss=0.01), *made, rng=key)
    assert trained["loss"][0] != trained["nll"][0]
    assert float(trained["loss"][1]) == made[2]["weights"].sum()


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("smoothing, z_loss", [(0.0, 0.0), (0.1, 1e-2)])
def test_chunked_logits_equal_whole_ones(made, chunk, smoothing, z_loss):
    model, params, batch = made
    key = jax.random.key(1)

    def value_and_grad(chunk):
        task = Task(None, label_smoothing=smoothing, z_loss=z_loss, loss_chunk=chunk)

        def loss(p):
            found = task.metrics(model, p, batch, rng=key)
            return found["loss"][0], found

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (_, whole), whole_grads = value_and_grad(0)
    (_, cut), cut_grads = value_and_grad(chunk)
    for name in whole:
        np.testing.assert_allclose(whole[name], cut[name], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole_grads, cut_grads)


def test_initial_parameters_are_those_of_the_model_alone(made):
    """The task's dummy batch decides nothing: parameters, and their paths in checkpoints, are what `model.init` gives."""
    model, _, batch = made
    task = Task(None)
    key = jax.random.key(3)
    ours = jax.jit(lambda k: model.init(k, task.dummy(), True, method=task.forward))(key)["params"]
    plain = jax.jit(lambda k: model.init(k, batch["tokens"]))(key)["params"]
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
