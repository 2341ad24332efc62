"""The cells and the scan: cells against their equations, the scan's gradients against those of `lax.scan`."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops import recurrent

pytestmark = pytest.mark.usefixtures("strict_numerics")
T, B, W = 5, 3, 4


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_lstm_is_its_equations():
    gates, c = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32), np.asarray([[0.3, -0.2], [1.0, 2.0]], np.float32)
    new_c, new_h = recurrent.lstm(gates, (c, c))
    for b in range(2):
        for w in range(2):
            i, f, g, o = (float(gates[b, k * 2 + w]) for k in range(4))
            want = sigmoid(f) * float(c[b, w]) + sigmoid(i) * math.tanh(g)
            assert float(new_c[b, w]) == pytest.approx(want, abs=1e-6)
            assert float(new_h[b, w]) == pytest.approx(sigmoid(o) * math.tanh(want), abs=1e-6)


def test_gru_is_its_equations():
    random = np.random.default_rng(0)
    x, u, h = (random.normal(size=(2, n)).astype(np.float32) for n in (6, 6, 2))
    (new,) = recurrent.gru(x, u, (h,))
    for b in range(2):
        for w in range(2):
            r, z = (sigmoid(float(x[b, k * 2 + w] + u[b, k * 2 + w])) for k in range(2))
            n = math.tanh(float(x[b, 4 + w]) + r * float(u[b, 4 + w]))
            assert float(new[b, w]) == pytest.approx((1 - z) * n + z * float(h[b, w]), abs=1e-6)


def step(dense, constants, carry, x):
    """Two products, one with an addend of its own and one without; constants, masks and integers beside them."""
    h = jnp.tanh(dense("inner", carry["h"]) * constants["scale"])
    out = jnp.sin(dense("outer", h + x["more"]))
    carry = {"h": jnp.where(x["real"], h + out, carry["h"])}
    return carry, (out, x["token"] * 2)


@functools.cache
def problem():
    keys = jax.random.split(jax.random.key(0), 6)
    weights = {"inner": jax.random.normal(keys[0], (W, W)), "outer": jax.random.normal(keys[1], (W, W))}
    addends = {"inner": jax.random.normal(keys[2], (T, B, W))}
    constants = {"scale": jax.random.normal(keys[3], (B, W))}
    xs = {
        "more": jax.random.normal(keys[4], (T, B, W)),
        "real": jnp.arange(T * B).reshape(T, B, 1) % 4 != 0,
        "token": jnp.arange(T, dtype=jnp.int32),
    }
    return weights, addends, constants, {"h": jax.random.normal(keys[5], (B, W))}, xs


def plain(reverse, weights, addends, constants, carry, xs):
    def body(carry, x):
        addend, x = x

        def dense(name, h):
            return h @ weights[name] + (addend[name] if name in addend else 0.0)

        return step(dense, constants, carry, x)

    return jax.lax.scan(body, carry, (addends, xs), reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_all_gradients_equal_those_of_a_plain_scan(reverse):
    weights, addends, constants, carry, xs = problem()

    def loss(scan, weights, addends, constants, carry, more):
        last, (out, _) = scan(weights, addends, constants, carry, {**xs, "more": more})
        return jnp.sum(jnp.square(last["h"])) + jnp.sum(out * jnp.arange(T, dtype=jnp.float32)[:, None, None])

    ours = functools.partial(recurrent.scan, step, jnp.float32, reverse)
    theirs = functools.partial(plain, reverse)
    np.testing.assert_array_equal(ours(weights, addends, constants, carry, xs)[1][1], xs["token"] * 2)
    for value, other in zip(*(jax.tree.leaves(f(weights, addends, constants, carry, xs)) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(value, other, atol=1e-5)
    gradients = [
        jax.jit(jax.grad(functools.partial(loss, f), argnums=(0, 1, 2, 3, 4)))(weights, addends, constants, carry, xs["more"])
        for f in (ours, theirs)
    ]
    for got, want in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert float(jnp.abs(want).max()) > 1e-3
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-4)


def test_gradients_of_weights_are_float32_when_computed_in_bfloat16():
    weights, addends, constants, carry, xs = problem()

    def loss(weights, dtype):
        return jnp.sum(recurrent.scan(step, dtype, False, weights, addends, constants, carry, xs)[1][0])

    got, want = (jax.grad(loss)(weights, dtype) for dtype in (jnp.bfloat16, jnp.float32))
    for name in weights:
        assert got[name].dtype == jnp.float32
        assert float(jnp.linalg.norm(got[name] - want[name]) / jnp.linalg.norm(want[name])) < 0.1
