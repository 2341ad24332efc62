"""Where norms go, and what the backward pass keeps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import flops, lookup
from decoder_lab.layers.attention import Context
from decoder_lab.layers.transformer import POLICIES, Block, Stack
from decoder_lab.training import placement


class Scaled(nn.Module):
    """Stands for attention: times 2."""

    @nn.compact
    def __call__(self, x, context, cache, layer):
        return 2 * x, cache


class PlusThree(nn.Module):
    """Stands for the MLP: plus 3."""

    @nn.compact
    def __call__(self, x):
        return x + 3


class TimesTen(nn.Module):
    """Stands for a norm: times 10."""

    @nn.compact
    def __call__(self, x):
        return 10 * x


def by_hand(x, norm_position, parallel):
    def a(y):
        return 2 * y

    def m(y):
        return y + 3

    def n(y):
        return 10 * y

    if parallel:
        return {"pre": x + a(n(x)) + m(n(x)), "post": n(x + a(x) + m(x)), "sandwich": x + n(a(n(x))) + n(m(n(x)))}[norm_position]
    if norm_position == "post":
        y = n(x + a(x))
        return n(y + m(y))
    after = n if norm_position == "sandwich" else (lambda y: y)
    y = x + after(a(n(x)))
    return y + after(m(n(y)))


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("norm_position", ["pre", "post", "sandwich"])
def test_order_of_norms_and_residuals(norm_position, parallel):
    block = Block(Scaled, PlusThree, TimesTen, norm_position, parallel)
    got, _ = block.apply({}, jnp.ones((1, 1, 1)), Context(jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), jnp.int32)))
    assert float(got[0, 0, 0]) == by_hand(1.0, norm_position, parallel)


class Wide(nn.Module):
    """An MLP with a large hidden layer, to be recomputed or kept; inputs stay where tanh is not flat and rounding stays rounding."""

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(x.shape[-1], use_bias=False)(jnp.tanh(nn.Dense(64 * x.shape[-1], use_bias=False)(x))))


class UnitRange(nn.Module):
    """Stands for a norm: squeezed into -1 .. 1."""

    @nn.compact
    def __call__(self, x):
        return x / (1 + jnp.abs(x))


@functools.cache
def compiled_gradient(remat, scan):
    def make(**kw):
        return Block(Scaled, Wide, UnitRange, **kw)

    stack = Stack(make, 6, scan, remat)
    x = jax.random.normal(jax.random.key(1), (4, 64, 8))
    context = Context(jnp.arange(64)[None], jnp.arange(64)[None])
    params = jax.jit(stack.init)(jax.random.key(0), x, context)
    return jax.jit(jax.grad(lambda p: stack.apply(p, x, context)[0].sum())).lower(params).compile(), params


def assert_equal_gradients(remat, scan):
    plain, params = compiled_gradient("none", scan)
    other, _ = compiled_gradient(remat, scan)
    plain, other = (jax.tree.leaves(gradient(params)) for gradient in (plain, other))
    assert len(plain) == len(other) > 0
    for a, b in zip(other, plain, strict=True):
        size = np.abs(b).max()
        assert size > 0
        np.testing.assert_allclose(a, b, atol=1e-5 * size, rtol=0)


@pytest.mark.parametrize("scan", [False, True])
def test_remat_saves_memory_and_changes_no_gradient(scan):
    assert_equal_gradients("full", scan)
    if scan:  # unrolled, XLA on a CPU merges the recomputation with the original
        plain, full = (compiled_gradient(remat, scan)[0].memory_analysis().temp_size_in_bytes for remat in ("none", "full"))
        assert full < plain / 2


@pytest.mark.parametrize("remat", sorted(set(POLICIES) - {"full", "none"}))
def test_every_policy_gives_the_same_gradients(remat):
    assert_equal_gradients(remat, scan=True)


@pytest.mark.parametrize("form", ["dtype", "int8"])
def test_what_a_policy_keeps_is_not_computed_again(form):
    """Results of matrices, whose maps have derivatives of their own: by the products of a traced step with its model's real layers."""
    if form == "int8":
        pytest.importorskip("qwix")

    def products(remat):
        kw = dict(num_layers=3, num_heads=2, width=8, scan_layers=True, remat=remat)
        model = lookup.make("model", dict(name="decoder_only", kw=kw), vocab_size=16, max_length=4, dtype=jnp.float32)
        tokens_BT = jnp.zeros((2, 4), jnp.int32)
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens_BT)["params"])

        def loss(params):
            with placement.multiplying(form):
                return jnp.sum(model.apply({"params": params}, tokens_BT)[0])

        return flops.with_weights(jax.jit(jax.grad(loss)).trace(params).jaxpr)

    layer, tokens = 4 * 8 * 8 + 2 * 8 * 32, 2 * 4
    none, full = products("none"), products("full")
    assert none == tokens * (6 * 3 * layer + 6 * 8 * 16)
    assert full - none == tokens * 2 * 3 * (layer - 8 * 32)  # all but a layer's last, which is its result
    assert products("dots") == products("dots_no_batch") == none
