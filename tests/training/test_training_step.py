"""The step: one result however the batch is cut into micro-batches or devices, and nothing applied from a non-finite one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import step as steps

B, T, D = 8, 6, 4


def metrics_fn(params, batch, key):
    """A linear model with ragged weights, as (sum, weight)."""
    predicted_BT = jnp.einsum("BTD,D->BT", batch["x"], params["w"]) + params["b"]
    loss_BT = jnp.square(predicted_BT - batch["y"]) * batch["weights"]
    return {"loss": (loss_BT.sum(), batch["weights"].sum())}


def ragged_batch(dtype=np.float64):
    rng = np.random.default_rng(0)
    weights = (np.arange(T)[None] < rng.integers(0, T + 1, size=(B, 1))).astype(dtype)  # rows of 0 to T targets
    return {"x": rng.normal(size=(B, T, D)).astype(dtype), "y": rng.normal(size=(B, T)).astype(dtype), "weights": weights}


def params(dtype=np.float64):
    return {"w": jnp.asarray(np.linspace(-1, 1, D), dtype), "b": jnp.asarray(0.5, dtype)}


def make(optimizer, **kw):
    settings = dict(accumulate=1, ema=0.0, on_nonfinite="stop") | kw
    return jax.jit(steps.make_train_step(metrics_fn, optimizer, lambda step: 0.1, **settings))


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_equals_the_whole_batch(accumulate):
    """KNOWN_BUGS 1 and 20: ragged micro-batches are summed and divided by the global weight; the norm is that of the whole gradient."""
    with jax.enable_x64(True):
        optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))
        state = steps.init_state(params(), optimizer, 0, False)
        whole, whole_metrics = make(optimizer)(state, ragged_batch())
        cut, cut_metrics = make(optimizer, accumulate=accumulate)(state, ragged_batch())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), whole.params, cut.params)
        for name in whole_metrics:
            np.testing.assert_allclose(whole_metrics[name], cut_metrics[name], rtol=1e-12)
        assert whole_metrics["grad_norm"][0] > 0.5  # reported before clipping


@pytest.mark.parametrize("wrong", [lambda loss: {"loss": loss}, lambda loss: {"nll": (loss, 1.0)}])
def test_a_loss_that_is_no_sum_with_a_weight_is_said(wrong):
    with pytest.raises(UserError, match=r"expected .*\(sum, weight\)"):
        jax.eval_shape(lambda p: steps.sum_gradients(lambda p, batch, key: wrong(jnp.sum(p["b"])), p, {}, None, 1), params(np.float32))


def test_devices_equal_one_device():
    """KNOWN_BUGS 2: rows with unequal numbers of targets on eight devices give the gradient of the whole batch."""
    optimizer = optax.sgd(0.1)
    mesh = meshes.make_mesh()
    assert mesh.size == 8
    batch = ragged_batch(np.float32)
    state = steps.init_state(params(np.float32), optimizer, 0, False)
    one, one_metrics = make(optimizer)(state, batch)
    many, many_metrics = make(optimizer)(meshes.replicate(state, mesh), meshes.shard_batch(batch, mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one.params, many.params)
    np.testing.assert_allclose(one_metrics["loss"], many_metrics["loss"], rtol=1e-6)


def test_nothing_to_predict_changes_nothing():
    """KNOWN_BUGS 8: weights that are all 0 give loss 0 and no update, not 0/0."""
    batch = ragged_batch(np.float32)
    batch["weights"][:] = 0
    optimizer = optax.adamw(0.1, weight_decay=0.1)  # momentum and decay would go on by themselves
    state, _ = make(optimizer)(steps.init_state(params(np.float32), optimizer, 0, False), ragged_batch(np.float32))
    after, metrics = make(optimizer)(state, batch)
    assert metrics["loss"] == (0.0, 0.0) and int(after.skipped) == 1 and not bool(after.halted)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


@pytest.mark.parametrize("on_nonfinite, good_after", [("stop", False), ("skip", True)])
def test_a_nonfinite_step_applies_nothing(on_nonfinite, good_after):
    """With "stop" the state stays that of before the bad step, so that it can be replayed; with "skip" training goes on."""
    optimizer = optax.adam(0.1)
    train_step = make(optimizer, on_nonfinite=on_nonfinite, ema=0.9)
    good, bad = ragged_batch(np.float32), ragged_batch(np.float32)
    bad["x"][0, 0] = np.inf
    bad["weights"][0, 0] = 1
    before, _ = train_step(steps.init_state(params(np.float32), optimizer, 0, True), good)
    after, metrics = train_step(before, bad)
    assert not np.isfinite(metrics["loss"][0])
    kept = lambda s: (s.params, s.opt_state, s.ema)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, kept(after), kept(before))
    assert (int(after.step), int(after.skipped)) == (2, 1)
    again, _ = train_step(after, good)
    assert bool(jnp.any(again.params["w"] != before.params["w"])) is good_after


def test_the_average_follows_the_parameters():
    optimizer = optax.sgd(0.1)
    state = steps.init_state(params(np.float32), optimizer, 0, True)
    after, _ = make(optimizer, ema=0.75)(state, ragged_batch(np.float32))
    expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, state.params, after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.ema, expected)


def test_every_step_has_its_own_key():
    """Reused PRNG keys would give every step, micro-batch and run the same dropout mask."""

    def keyed(p, batch, key):
        return {"loss": (p["w"].sum() * 0, jnp.float32(1)), "draw": (jax.random.uniform(key), jnp.float32(1))}

    optimizer = optax.sgd(0.1)
    train_step = jax.jit(steps.make_train_step(keyed, optimizer, lambda s: 0.1, accumulate=2, ema=0.0, on_nonfinite="stop"))
    draws = set()
    for seed in (0, 1):
        state = steps.init_state(params(np.float32), optimizer, seed, False)
        for _ in range(3):
            state, metrics = train_step(state, ragged_batch(np.float32))
            draws.add(float(metrics["draw"][0]))
    assert len(draws) == 6
