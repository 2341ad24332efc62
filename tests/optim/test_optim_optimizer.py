"""Config -> optax: every optimiser takes steps; clipping, decay and multipliers mean the same for all of them."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from decoder_lab.core import lookup, signatures, tree
from decoder_lab.core.durations import Clockwork
from decoder_lab.core.errors import UserError
from decoder_lab.optim import optimizer

NAMES = (
    "adafactor adam adamaxw adamw adan ademamix adopt galore lamb lars lion muon novograd radam rmsprop "
    "schedule_free_adamw schedule_free_sgd sgd signum sm3 yogi"
).split()
DECOUPLED = "adafactor adam adamw adan lion muon novograd rmsprop schedule_free_adamw schedule_free_sgd sgd sm3".split()
PARAMS = {
    "embed": {"embedding": jax.random.normal(jax.random.key(1), (6, 4))},
    "layers": {"mlp": {"kernel": jax.random.normal(jax.random.key(2), (2, 4, 8)), "bias": jnp.ones((2, 8))}},
    "out": {"kernel": jax.random.normal(jax.random.key(3), (8, 4))},
    "norm": {"scale": jnp.ones(4)},
    "unembedding": {"kernel": jax.random.normal(jax.random.key(4), (4, 6))},
}


def make(name="adamw", params=PARAMS, total_steps=10, **changes):
    space = types.SimpleNamespace
    settings = dict(lr=0.01, weight_decay=0.0, clip_norm=0.0, kw={}, no_decay=("bias$", "scale$"), lr_multipliers={}, schedule=None)
    settings |= changes
    plugin = space(name=name, **{key: settings.pop(key) for key in ("kw", "no_decay", "lr_multipliers")})
    settings["schedule"] = space(**(settings["schedule"] or dict(name="constant", kw={})))
    config = space(optimizer=plugin, **settings)
    return optimizer.make(config, total_steps, Clockwork(total_steps, 1, 1, 10).steps, params)


def run(tx, grads_of, steps, params=PARAMS):
    """Returns (parameters, state) after some jitted steps of `grads_of(params)`."""

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grads_of(params), state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def still(params):
    """No gradient at all."""
    return jax.tree.map(jnp.zeros_like, params)


def loss(params):
    return sum(jnp.mean((x - 0.5) ** 2) for x in jax.tree.leaves(params))


@pytest.mark.parametrize("name", NAMES)
def test_every_optimiser_takes_steps_downhill(name):
    tx, _ = make(name, weight_decay=0.01, clip_norm=1.0)
    params, state = run(tx, jax.grad(loss), 2)
    assert loss(params) < loss(PARAMS)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert all(x.dtype in (jnp.float32, jnp.int32, jnp.bool_) for x in jax.tree.leaves(state))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_all_of_optax_is_either_built_or_refused_with_a_reason():
    """With every argument said, at its default, as a complete config has it."""
    refused = {}
    for name in lookup.names("optimizer"):
        fields = lookup.fields("optimizer", name)
        kw = {key: field.default for key, field in fields.items() if field.default is not signatures.UNREADABLE}
        try:
            tx, _ = make(name, kw=kw)
            jax.eval_shape(tx.init, PARAMS)
        except UserError as error:
            refused[name] = str(error)
    assert set(refused) == set(optimizer.UNSUPPORTED)
    assert all(len(reason.split()) > 5 for reason in refused.values())


@pytest.mark.parametrize("name", DECOUPLED)
def test_decay_is_lr_times_weight_decay_on_what_no_decay_leaves(name):
    """One meaning of weight_decay for all: with no gradient, p becomes p (1 - lr * wd), and biases and scales stay as they are."""
    tx, _ = make(name, weight_decay=0.3, lr=0.1)
    params = tree.flatten(run(tx, still, 1)[0])
    for path, before in tree.flatten(PARAMS).items():
        factor = 1.0 if path.endswith(("bias", "scale")) else 1 - 0.1 * 0.3
        np.testing.assert_allclose(params[path], before * factor, rtol=2e-6, err_msg=path)


def test_adam_with_decay_is_adamw():
    """Decay placed after an optimiser without its own equals the one inside adamw, schedule and masks included."""
    common = dict(weight_decay=0.2, schedule=dict(name="cosine", kw=dict(warmup="2")), lr=0.05)
    ours, _ = run(make("adam", **common)[0], jax.grad(loss), 5)
    theirs, _ = run(make("adamw", **common)[0], jax.grad(loss), 5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


@pytest.mark.parametrize("name", ["adafactor", "adamw", "lamb", "lion", "muon", "sgd"])
def test_a_multiplier_of_zero_freezes_exactly(name):
    """Also under weight decay, which would otherwise drift frozen weights; compared bit for bit."""
    tx, _ = make(name, weight_decay=0.1, lr_multipliers={"^layers/": 0.0})
    params, _ = run(tx, jax.grad(loss), 2)
    for path, after in tree.flatten(params).items():
        assert np.array_equal(after, tree.flatten(PARAMS)[path]) == path.startswith("layers/"), path


def test_frozen_under_schedule_free():
    """Its parameters are averages worked out anew at each step, so here up to rounding."""
    tx, _ = make("schedule_free_adamw", weight_decay=0.1, lr_multipliers={"^layers/": 0.0})
    params, state = run(tx, jax.grad(loss), 3)
    for found in (params, optimizer.evaluation_params(state, params)):
        np.testing.assert_allclose(found["layers"]["mlp"]["kernel"], PARAMS["layers"]["mlp"]["kernel"], rtol=1e-6)
        assert not np.allclose(found["out"]["kernel"], PARAMS["out"]["kernel"], rtol=1e-4)


def test_multipliers_of_all_matching_patterns_multiply():
    multipliers = {"kernel$": 0.5, "^out/": 4.0}
    moved = []
    for chosen in (multipliers, dict(reversed(multipliers.items()))):
        params, _ = run(make("sgd", lr=1.0, lr_multipliers=chosen)[0], lambda p: jax.tree.map(jnp.ones_like, p), 1)
        moved.append({path: float(jnp.mean(tree.flatten(PARAMS)[path] - x)) for path, x in tree.flatten(params).items()})
    assert moved[0] == moved[1]
    expected = {"out/kernel": 2.0, "layers/mlp/kernel": 0.5, "unembedding/kernel": 0.5}
    for path, distance in moved[0].items():
        np.testing.assert_allclose(distance, expected.get(path, 1.0), rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("setting", [dict(no_decay=("bais$",)), dict(lr_multipliers={"bais$": 0.1})])
def test_a_pattern_that_matches_nothing_is_an_error_with_the_names(setting):
    with pytest.raises(UserError, match=r'bais\$" matches no parameter(.|\n)*layers/mlp/bias'):
        make(**setting)


def test_the_usual_no_decay_patterns_may_find_nothing():
    """A model without biases is not a mistake."""
    make(params={"out": {"kernel": jnp.ones((2, 2))}}, no_decay=("bias$", "scale$", "embedding$"))


@pytest.mark.parametrize("size", [0.1, 1.0, 50.0])
def test_clipping_is_by_the_norm_of_the_whole_gradient(size):
    """KNOWN_BUGS 20."""
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    grads = jax.tree.map(lambda g: g * size / optax.tree.norm(grads), grads)
    tx, _ = make("sgd", lr=1.0, clip_norm=1.0)
    params, _ = run(tx, lambda _: grads, 1)
    moved = jax.tree.map(jnp.subtract, PARAMS, params)
    np.testing.assert_allclose(optax.tree.norm(moved), min(size, 1.0), rtol=1e-5)
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, g * min(1, 1 / size), rtol=1e-4, atol=1e-6), moved, grads)


@pytest.mark.parametrize("name,kw", [("sgd", {}), ("sm3", dict(momentum=0.0)), ("lion", {}), ("muon", {})])
def test_step_t_uses_the_learning_rate_of_t(name, kw):
    """KNOWN_BUGS 18: no optimiser is a step ahead of or behind the rate that is logged. The first gradient that is not 0 comes at t."""
    tx, lr_fn = make(name, kw=kw, schedule=dict(name="linear", kw=dict(warmup="3")), lr=0.5)
    same, _ = make(name, kw=kw, lr=1.0)
    update, state = jax.jit(tx.update), jax.jit(tx.init)(PARAMS)
    reference, unscaled = jax.jit(same.update), jax.jit(same.init)(PARAMS)
    for t in range(5):
        grads = jax.tree.map(lambda p, t=t: jnp.full_like(p, 1.0 + t), PARAMS)
        updates, state = update(grads, state, PARAMS)
        full, unscaled = reference(grads, unscaled, PARAMS)
        jax.tree.map(lambda u, f, t=t: np.testing.assert_allclose(u, f * lr_fn(t), rtol=1e-4, atol=1e-8), updates, full)
    assert lr_fn(0) == 0 and float(lr_fn(3)) == 0.5


def test_schedule_free_is_the_papers_recursion():
    """Defazio et al. 2024, equation 1 with weights lr^2: z steps, x averages z, gradients are taken at y; x is what is evaluated."""
    tx, lr_fn = make("schedule_free_sgd", lr=0.2, schedule=dict(name="constant", kw=dict(warmup="2")))
    params, state = run(tx, jax.grad(loss), 6)
    gradient = functools.partial(jax.tree.map, lambda y: 2 * (y - 0.5) / y.size)
    x = y = z = jax.tree.map(np.asarray, PARAMS)
    total, largest = 0.0, 0.0
    for t in range(6):
        lr = float(lr_fn(t))
        largest = max(largest, lr)
        z = jax.tree.map(lambda a, g, lr=lr: a - lr * g, z, gradient(y))
        total += largest**2
        c = largest**2 / total if total else 0.0
        x = jax.tree.map(lambda a, b, c=c: (1 - c) * a + c * b, x, z)
        y = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, x, z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), optimizer.evaluation_params(state, params), x)


def test_every_other_optimiser_evaluates_what_it_trains():
    params, state = run(make("adamw", clip_norm=1.0)[0], jax.grad(loss), 1)
    assert optimizer.evaluation_params(state, params) is params


def test_muon_takes_the_kernels_and_adam_the_rest():
    """Scanned kernels are orthogonalised layer by layer; embeddings, unembedding, biases and scales move as under Adam."""
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), PARAMS)
    ours = tree.flatten(run(make("muon", lr=0.01)[0], lambda _: grads, 1)[0])
    adam = tree.flatten(run(make("adamw", lr=0.01, kw=dict(nesterov=True))[0], lambda _: grads, 1)[0])
    before = tree.flatten(PARAMS)
    for path in before:
        if path in ("layers/mlp/kernel", "out/kernel"):
            scale = 0.01 * max(1, before[path].shape[-1] / before[path].shape[-2]) ** 0.5
            sizes = np.linalg.svd((before[path] - ours[path]) / scale, compute_uv=False)
            assert sizes.shape[-1] == 4 and (0.5 < sizes).all() and (sizes < 1.5).all(), path
        else:
            np.testing.assert_allclose(ours[path], adam[path], rtol=1e-5, atol=1e-7, err_msg=path)


def test_muon_without_matrices_is_an_error():
    with pytest.raises(UserError, match="nothing for it"):
        make("muon", params={"embed": {"embedding": jnp.ones((4, 4))}}, no_decay=())


@pytest.mark.parametrize(
    "name,changes,reason",
    [
        ("prodigy", dict(weight_decay=0.1), "weight_decay=0.0"),
        ("dadapt_adamw", dict(weight_decay=0.1), "weight_decay=0.0"),
        ("muon", dict(kw=dict(adam_learning_rate=1e-3)), "lr_multipliers"),
        ("lbfgs", {}, "line search"),
        ("adamv", {}, "adamw"),
        ("adamw", dict(kw=dict(beta1=0.9)), "b1"),
        ("schedule_free_adamw", dict(kw=dict(warmup_steps=10)), "warm-up in the schedule"),
        ("schedule_free_adamw", dict(kw=dict(b1=0.0)), "more than 0"),
    ],
)
def test_what_cannot_be_done_is_said(name, changes, reason):
    with pytest.raises(UserError, match=reason):
        make(name, **changes)


def test_shapes_are_enough_to_build_from():
    shapes = jax.eval_shape(lambda: PARAMS)
    for name in ("adamw", "muon", "schedule_free_adamw"):
        params, _ = run(make(name, params=shapes, weight_decay=0.1)[0], jax.grad(loss), 1)
        assert loss(params) < loss(PARAMS)


def test_state_goes_on_from_plain_arrays():
    """Saved as numpy after two steps and taken up again, the third step is the same bit for bit."""
    tx, _ = make("adamw", weight_decay=0.1, schedule=dict(name="cosine", kw=dict(warmup="2")))
    params, state = run(tx, jax.grad(loss), 2)
    update = jax.jit(tx.update)
    grads = jax.grad(loss)(params)
    whole = update(grads, state, params)
    again = update(grads, jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, state)), params)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
