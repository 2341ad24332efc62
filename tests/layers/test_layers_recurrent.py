"""Recurrent layers: against plain NumPy loops and PyTorch, with padding anywhere, several documents, dropout."""

import functools
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.recurrent import Recurrent, has_several, steps_of

pytestmark = pytest.mark.usefixtures("strict_numerics")
B, S, D, W = 3, 6, 2, 3
each_cell = pytest.mark.parametrize("cell", ["lstm", "gru"])


@functools.cache
def made(cell, **kw):
    layer = Recurrent(cell, W, **{"num_layers": 2, "bidirectional": True, **kw})
    x = jax.random.normal(jax.random.key(0), (B, S, D))
    params = jax.tree.map(lambda p: p + 0.1, jax.jit(layer.init)(jax.random.key(1), x))  # biases that are not zero
    return layer, params, x, jax.jit(layer.apply, static_argnames=("deterministic",))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(cell, p, xs):
    """One direction over one sequence, in NumPy: the states after each entry, (h) or (c, h)."""
    h = c = np.zeros(W)
    states = []
    for x in xs:
        inputs, products = x @ p["kernel"] + p["bias"], h @ p["recurrent_kernel"]
        if cell == "lstm":
            i, f, g, o = np.split(inputs + products, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            r, z = (sigmoid(inputs[k * W : (k + 1) * W] + products[k * W : (k + 1) * W]) for k in range(2))
            n = np.tanh(inputs[2 * W :] + r * (products[2 * W :] + p["candidate_bias"]))
            h = (1 - z) * n + z * h
        states.append((c, h) if cell == "lstm" else (h,))
    return states


def naive(cell, params, xs, num_layers=2):
    """Both directions, stacked: (values, final states of each layer)."""
    xs, finals = np.asarray(xs, np.float64), []
    for i in range(num_layers):
        forward = loop(cell, params[f"forward_{i}"], xs)
        backward = loop(cell, params[f"backward_{i}"], xs[::-1])[::-1]
        finals.append([np.concatenate(parts) for parts in zip(forward[-1], backward[0], strict=True)])
        xs = np.concatenate([[s[-1] for s in forward], [s[-1] for s in backward]], axis=-1)
    return xs, finals


def leaves(state):
    return state if isinstance(state, tuple) else (state,)


@each_cell
def test_equals_a_loop_in_numpy(cell):
    _, params, x, run = made(cell)
    got = run(params, x)
    for b in range(B):
        values, finals = naive(cell, jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"]), x[b])
        np.testing.assert_allclose(got.values_BSD[b], values, atol=1e-5)
        for state, want in zip(got.states, finals, strict=True):
            np.testing.assert_allclose(np.stack([part[b] for part in leaves(state)]), want, atol=1e-5)


def wave(*shape, phase):
    return 0.9 * np.sin(np.arange(math.prod(shape)) * 1.7 + phase).reshape(shape)


def torch_like(cell):
    """Parameters of torch.nn.LSTM or GRU(2, 3, 2, bidirectional=True), wave k in the k-th, as ours."""
    gates, params, k = {"lstm": 4, "gru": 3}[cell] * W, {}, 0
    for layer in range(2):
        for name in ("forward", "backward"):
            shapes = [(gates, D if layer == 0 else 2 * W), (gates, W), (gates,), (gates,)]
            w, u, b, c = (wave(*shape, phase=float(k + n)) for n, shape in enumerate(shapes))
            k += 4
            both = np.concatenate([(b + c)[: 2 * W], b[2 * W :]]) if cell == "gru" else b + c
            params[f"{name}_{layer}"] = {"kernel": w.T, "recurrent_kernel": u.T, "bias": both}
            if cell == "gru":
                params[f"{name}_{layer}"]["candidate_bias"] = c[2 * W :]
    return {"params": jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)}


# what torch 2.13 gives in float64 for the input wave(1, 4, 2, phase=0.5)
TORCH = {
    "lstm": [
        [0.125645, -0.180862, -0.144153, -0.094931, 0.227033, 0.192219],
        [0.213081, -0.270037, -0.260027, -0.057852, 0.188051, 0.285332],
        [0.24778, -0.270342, -0.302419, -0.074764, 0.174635, 0.206229],
        [0.29603, -0.276883, -0.360472, -0.055401, 0.105526, 0.167795],
    ],
    "gru": [
        [0.398941, -0.286741, -0.566254, -0.29659, 0.702, 0.840855],
        [0.708287, -0.489385, -0.827037, -0.34308, 0.529971, 0.865228],
        [0.882232, -0.449209, -0.913194, -0.30762, 0.437472, 0.733827],
        [0.944063, -0.629925, -0.926914, -0.211792, 0.294836, 0.430064],
    ],
}
TORCH_C = [[0.555317, 0.425018, -0.294779, -0.286223, -1.261637, 0.756454], [0.425816, -0.505002, -1.19272, -1.519222, 0.508236, 0.226797]]


def torch_now(cell):
    import torch

    module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](D, W, 2, batch_first=True, bidirectional=True).double()
    with torch.no_grad():
        for k, (_, p) in enumerate(module.named_parameters()):
            p.copy_(torch.from_numpy(wave(*p.shape, phase=float(k))))
        return module(torch.from_numpy(wave(1, 4, 2, phase=0.5)))[0][0].numpy()


@each_cell
def test_equals_pytorch(cell):
    """With torch's two biases summed, but for the candidate's of a GRU."""
    layer, _, _, _ = made(cell)
    got = jax.jit(layer.apply)(torch_like(cell), jnp.asarray(wave(1, 4, 2, phase=0.5), jnp.float32))
    references = [TORCH[cell]] + ([torch_now(cell)] if importlib.util.find_spec("torch") else [])
    for reference in references:
        np.testing.assert_allclose(got.values_BSD[0], reference, atol=2e-6)
    if cell == "lstm":
        np.testing.assert_allclose(np.stack([state[0][0] for state in got.states]), TORCH_C, atol=2e-6)


@each_cell
@pytest.mark.parametrize("kw", [{}, dict(bidirectional=False), dict(bidirectional=False, reverse=True)])
def test_padding_anywhere_changes_nothing(cell, kw):
    """KNOWN_BUGS 21: left, right and inner padding with wild contents, alone and in one batch; states are those of the last real entry."""
    _, params, x, run = made(cell, **kw)
    real = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 1, 1]], bool)
    filled, order = jnp.where(real[:, :, None], x, 1e4), jnp.broadcast_to(jnp.arange(S)[None], (B, S))
    got = run(params, filled, jnp.asarray(real, jnp.int32))
    for b in range(B):
        alone = run(
            params, jnp.zeros((B, S, D)).at[:1, : real[b].sum()].set(x[b, real[b]][None]), (order < real[b].sum()).astype(jnp.int32)
        )
        np.testing.assert_allclose(got.values_BSD[b, real[b]], alone.values_BSD[0, : real[b].sum()], atol=1e-6)
        for state, want in zip(jax.tree.leaves(got.states), jax.tree.leaves(alone.states), strict=True):
            np.testing.assert_allclose(state[b], want[0], atol=1e-6)


@each_cell
def test_an_empty_row_is_finite_and_so_are_its_gradients(cell):
    """KNOWN_BUGS 7."""
    _, params, x, run = made(cell)
    segments = jnp.ones((B, S), jnp.int32).at[1].set(0)
    got = run(params, x, segments)
    assert all(not np.asarray(state)[1].any() for state in jax.tree.leaves(got.states))
    gradient = jax.jit(jax.grad(lambda p, x: run(p, x, segments).values_BSD.sum(), argnums=(0, 1)))(params, x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient)) and not np.asarray(gradient[1])[1].any()


@each_cell
def test_documents_of_one_row_are_read_apart(cell):
    """KNOWN_BUGS 4: values, and final states of each document, as if each stood alone; also with padding in between."""
    _, params, x, run = made(cell)
    segments = jnp.asarray([[1, 1, 2, 2, 0, 0], [1, 0, 1, 0, 3, 3], [2, 2, 3, 3, 1, 1]])
    got = run(params, x, segments)
    for b in range(B):
        for document in set(np.asarray(segments[b]).tolist()) - {0}:
            at = np.asarray(segments[b]) == document
            alone = run(params, x[b, at][None])
            np.testing.assert_allclose(got.values_BSD[b, at], alone.values_BSD[0], atol=1e-6)
            for state, want in zip(jax.tree.leaves(got.segment_states), jax.tree.leaves(alone.states), strict=True):
                np.testing.assert_allclose(state[b, at], np.broadcast_to(want[0], state[b, at].shape), atol=1e-6)


def test_one_document_has_its_states_everywhere():
    _, params, x, run = made("lstm")
    for segments in (None, jnp.asarray([[1] * 6, [0, 0, 5, 5, 5, 0], [0] * 6])):
        got = run(params, x, segments)
        for state, each in zip(jax.tree.leaves(got.states), jax.tree.leaves(got.segment_states), strict=True):
            np.testing.assert_array_equal(each, np.broadcast_to(np.asarray(state)[:, None], each.shape))
    assert not has_several(jnp.asarray([[0, 5, 5], [1, 0, 1]])) and has_several(jnp.asarray([[1, 1], [1, 2]]))


def test_steps_go_on_where_the_last_call_ended():
    whole = steps_of(jnp.asarray([[0, 1, 1, 0, 1, 2, 2, 0]]))
    assert whole.reset_BT.astype(jnp.int32).tolist() == [[0, 1, 0, 0, 0, 1, 0, 0]] and whole.last_B.tolist() == [2]
    first = steps_of(jnp.asarray([[0, 1, 1, 0]]))
    second = steps_of(jnp.asarray([[1, 2, 2, 0]]), first.last_B)
    assert second.reset_BT.astype(jnp.int32).tolist() == [[0, 1, 0, 0]]
    assert steps_of(jnp.asarray([[0, 0]]), jnp.asarray([3], jnp.int32)).last_B.tolist() == [3]


def test_initial_values():
    params = jax.jit(Recurrent("lstm", 32).init)(jax.random.key(0), jnp.zeros((1, 2, 50)))["params"]["forward_0"]
    for gate in np.split(np.asarray(params["recurrent_kernel"]), 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(32), atol=1e-5)
    np.testing.assert_array_equal(params["bias"], np.repeat([0, 1, 0, 0], 32))
    assert float(params["kernel"].std()) == pytest.approx(50**-0.5, rel=0.05)


@pytest.mark.parametrize(("variational", "same"), [(False, False), (True, True)])
def test_dropout_between_layers(variational, same):
    """Variational: one mask for all time; of the gradient with respect to the first layer's outputs it can be seen."""
    layer, params, x, _ = made("gru", bidirectional=False, dropout=0.5, variational=variational)
    read = jax.jit(functools.partial(layer.apply, params, deterministic=False))
    one, again, other = (read(x, rngs={"dropout": jax.random.key(k)}).values_BSD for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(np.asarray(one - other)).max() > 1e-3
    flat = jnp.broadcast_to(x[:1, :1], (1, 600, D))  # the first layer comes to rest, so only masks make its followers move
    out = np.asarray(read(flat, rngs={"dropout": jax.random.key(0)}).values_BSD)[0, 500:]
    assert (out.std(axis=0).max() < 1e-3) == same


@each_cell
def test_bfloat16_stays_near_float32(cell):
    layer, params, x, run = made(cell)
    half = jax.jit(Recurrent(cell, W, 2, True, dtype=jnp.bfloat16).apply)(params, x)
    assert half.values_BSD.dtype == jnp.bfloat16 and {s.dtype for s in jax.tree.leaves(half.states)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(half.values_BSD.astype(jnp.float32), run(params, x).values_BSD, atol=0.05)
