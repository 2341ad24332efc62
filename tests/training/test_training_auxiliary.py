"""Losses of layers reach the step whatever the task, scanned or not, recomputed or not, and only while training."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.models.decoder_only import Model
from decoder_lab.tasks.language_modeling import Task
from decoder_lab.training import auxiliary
from decoder_lab.training import step as steps

V, B, T = 7, 3, 6
KW = dict(num_layers=2, num_heads=2, width=8, mlp_dim=8, num_experts=3, expert_balance=0.5, expert_z=0.1, init_stddev=0.5)
RNG = np.random.default_rng(0)
BATCH = {
    "tokens": RNG.integers(0, V, (B, T)).astype(np.int32),
    "labels": RNG.integers(0, V, (B, T)).astype(np.int32),
    "weights": (RNG.random((B, T)) < 0.7).astype(np.float32),
    "segments": np.array([[1] * T, [1] * 3 + [2] * 3, [1] * 4 + [0] * 2], np.int32),
}


@functools.cache
def gradients(**kw):
    """Returns (parameters, gradient of the summed loss, metrics, evaluation's metrics) as the step has them."""
    model, task = auxiliary.of_model(Model(V, T, jnp.float32, **KW, **kw), dict(name="decoder_only", kw=KW)), Task(tokenizer=None)
    params = jax.jit(lambda key: model.init(key, BATCH["tokens"])["params"])(jax.random.key(0))

    def metrics_fn(params, batch, key):
        with auxiliary.collected() as sown:
            metrics = task.metrics(model, params, batch, rng=key)
        return auxiliary.added(metrics, sown)

    @jax.jit
    def run(params):
        grads, metrics = steps.sum_gradients(metrics_fn, params, BATCH, jax.random.key(1), 1)
        return grads, metrics, task.metrics(model, params, BATCH)

    return params, *run(params)


def test_the_router_learns_from_them_and_the_loss_stays_the_tasks():
    params, grads, metrics, evaluated = gradients()
    assert evaluated.keys() == {"loss", "nll", "accuracy"}, "evaluation knows nothing of it"
    assert metrics.keys() == {"loss", "nll", "accuracy", "auxiliary", "balance", "router_z"}
    np.testing.assert_allclose(metrics["loss"][0], evaluated["loss"][0], rtol=1e-6)
    means = {name: float(s / w) for name, (s, w) in metrics.items()}
    np.testing.assert_allclose(means["auxiliary"], 0.5 * means["balance"] + 0.1 * means["router_z"], rtol=1e-5)
    assert float(metrics["balance"][1]) == 2 * 16, "real tokens, of two layers"
    model = Model(V, T, jnp.float32, **KW)

    @jax.jit
    def by_hand(params):
        def total(params):
            logits, sown = model.apply({"params": params}, BATCH["tokens"], segments_BT=BATCH["segments"], mutable=["losses"])
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits[0]), jnp.asarray(BATCH["labels"])[..., None], axis=-1)[..., 0]
            layers = [sown["losses"]["decoder"][f"layer_{i}"]["mlp"] for i in range(2)]
            extra = sum(0.5 * layer["balance"][0][0] + 0.1 * layer["router_z"][0][0] for layer in layers) / (2 * 16)
            return -jnp.sum(picked * BATCH["weights"]) + BATCH["weights"].sum() * extra

        return jax.grad(total)(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), grads, by_hand(params))


def test_scanned_and_recomputed_layers_have_the_same():
    _, _, unrolled, _ = gradients()
    _, _, scanned, _ = gradients(scan_layers=True, remat="full")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), scanned, unrolled)


@functools.cache
def routed(accumulate):
    """Returns (gradient of the summed loss, metrics) of rows with unlike shares of targets among their tokens, cut into micro-batches."""
    kw = {**KW, "num_layers": 1}
    model, task = auxiliary.of_model(Model(V, T, jnp.float32, **kw), dict(name="decoder_only", kw=kw)), Task(tokenizer=None)
    rows = {name: np.concatenate([x, x[:1]]) for name, x in BATCH.items()}
    rows["weights"] = np.array([[1] * 6, [1] + [0] * 5, [1, 1] + [0] * 4, [0] * 6], np.float32)
    params = jax.jit(lambda key: model.init(key, rows["tokens"])["params"])(jax.random.key(0))

    def metrics_fn(params, batch, key):
        with auxiliary.collected(model) as sown:
            metrics = task.metrics(model, params, batch, rng=key)
        return auxiliary.added(metrics, sown)

    run = functools.partial(steps.sum_gradients, metrics_fn, key=jax.random.key(1), accumulate=max(1, accumulate))
    if accumulate:
        return jax.jit(run)(params, rows)

    def on_a_device(params, batch):
        total = functools.partial(jax.lax.psum, axis_name="data")
        return total(run(params, batch, total=total))

    parts = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), rows)
    return jax.pmap(on_a_device, "data", in_axes=(None, 0), out_axes=None)(params, parts)


@pytest.mark.parametrize("accumulate", [2, 4, 0])
def test_they_do_not_depend_on_how_a_batch_is_cut(accumulate):
    """KNOWN_BUGS 1: nor, 0, on how it is shared by two devices."""
    expected, got = routed(1), routed(accumulate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)
    assert np.any(expected[0]["decoder"]["layer_0"]["mlp"]["router"]["kernel"])


def test_who_asks_for_more_is_heard_too_and_a_model_beside_it_is_not():
    model, other = (auxiliary.of_model(Model(V, T, jnp.float32, **KW), dict(name="decoder_only", kw=KW)) for _ in range(2))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), BATCH["tokens"])["params"])

    def heard(params):
        with auxiliary.collected(types.SimpleNamespace(model=model)) as sown:  # as inside an adapted model
            _, shown = model.apply({"params": params}, BATCH["tokens"], mutable=["intermediates"], capture_intermediates=True)
            other.apply({"params": params}, BATCH["tokens"])
            other.apply({"params": params}, BATCH["tokens"])
        return sown, shown  # of one call, not of two

    sown, shown = jax.eval_shape(heard, params)
    assert len(sown) == 1 and jax.tree.leaves(sown) and shown.keys() == {"intermediates"}


def test_nobody_listens_to_a_model_without_experts():
    plain = Model(V, T, jnp.float32, num_layers=1, num_heads=2, width=8)
    assert auxiliary.of_model(plain, dict(name="decoder_only", kw={"num_experts": 0})) is plain
    nested = dict(name="encoder_decoder", kw=dict(encoder=dict(name="transformer", kw={"num_experts": 2})))
    assert isinstance(auxiliary.of_model(plain, nested), auxiliary.Audible)
    assert auxiliary.added({"loss": (1.0, 2.0)}, []) == {"loss": (1.0, 2.0)}
