"""Dropout and its random bits: fair, of their place and key alone, and unlike their neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops.dropout import dropout
from decoder_lab.ops.random_bits import random_bits

pytestmark = pytest.mark.usefixtures("strict_numerics")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rate_and_scale(dtype):
    kept = np.asarray(jax.jit(lambda key: dropout(jnp.ones((1000, 100), dtype), key, 0.2))(jax.random.key(0)), np.float32)
    assert (kept == 0).mean() == pytest.approx(0.2, abs=0.005)
    assert np.unique(kept[kept > 0]) == pytest.approx(1.25, rel=4e-3)
    assert (np.diff(kept == 0, axis=0).mean(), np.diff(kept == 0, axis=1).mean()) == pytest.approx((0.32, 0.32), abs=0.01)


def test_rate_zero_is_the_identity_and_one_is_refused():
    x = jnp.arange(4.0)
    assert dropout(x, jax.random.key(0), 0.0) is x
    with pytest.raises(ValueError, match="below 1"):
        dropout(x, jax.random.key(0), 1.0)


def test_bits_are_fair_and_unlike_their_neighbours_and_those_of_other_keys():
    draw = jax.jit(random_bits, static_argnums=1)
    keys = [jax.random.key(0), jax.random.key(1), jax.random.fold_in(jax.random.key(0), 1), jax.random.key(5, impl="rbg")]
    drawn = [np.asarray(draw(key, (256, 2, 512))).reshape(512, 512) for key in keys]
    near = 5 / 512  # standard errors of a mean of 512 x 512 signs
    signs = [1.0 - 2.0 * ((bits[..., None] >> np.arange(32, dtype=np.uint32)) & 1) for bits in drawn]
    for bits_RCN in signs:
        assert np.abs(bits_RCN.mean((0, 1))).max() < near  # each of the 32 bits
        for lag in (1, 2, 3, 16, 128):
            assert np.abs((bits_RCN[lag:] * bits_RCN[:-lag]).mean((0, 1))).max() < near
            assert np.abs((bits_RCN[:, lag:] * bits_RCN[:, :-lag]).mean((0, 1))).max() < near
    for i in range(4):
        for j in range(i):
            assert np.abs((signs[i] * signs[j]).mean((0, 1))).max() < near
            assert np.abs((signs[i] * signs[j][:, ::-1]).mean((0, 1))).max() < near
    assert len(np.unique(drawn[0])) > 512 * 512 - 30  # 2^18 draws of 2^32 meet 8 times; shared rows would meet often


@pytest.mark.parametrize("shape", [(), (5,), (3, 1), (2, 0, 4), (2, 3, 4)])
def test_bits_of_any_shape_and_of_raw_keys(shape):
    bits = random_bits(jax.random.key(3), shape)
    assert bits.shape == shape and bits.dtype == jnp.uint32
    np.testing.assert_array_equal(bits, random_bits(jax.random.key_data(jax.random.key(3)), shape))
