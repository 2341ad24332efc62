"""Rotary positions: rotation, relative shifts, the published scalings, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.ops import rotary

pytestmark = pytest.mark.usefixtures("strict_numerics")
H = 16


def rotated(x_BTNH, positions_BT, **kw):
    return rotary.rotate(x_BTNH, *rotary.tables(jnp.asarray(positions_BT), x_BTNH.shape[-1], **kw))


def test_each_plane_is_turned_by_its_angle():
    x = jax.random.normal(jax.random.key(0), (1, 1, 1, H))
    got = np.asarray(rotated(x, [[7]]))[0, 0, 0]
    pairs = np.asarray(x)[0, 0, 0, : H // 2] + 1j * np.asarray(x)[0, 0, 0, H // 2 :]
    expected = pairs * np.exp(1j * 7 * 10_000.0 ** (-np.arange(0, H, 2) / H))
    np.testing.assert_allclose(got, np.concatenate([expected.real, expected.imag]), atol=1e-5)


@pytest.mark.parametrize("scaling", [{}, {"type": "yarn", "factor": 4.0, "original_max_length": 64}])
def test_products_depend_only_on_the_distance(scaling):
    """KNOWN_BUGS 14: relative-shift invariance."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, H))

    def product(t, s):
        return float(jnp.sum(rotated(q, [[t]], scaling=scaling) * rotated(k, [[s]], scaling=scaling)))

    assert product(9, 4) == pytest.approx(product(1005, 1000), abs=1e-3)
    assert abs(product(9, 4) - product(9, 8)) > 1e-2


def test_tables_are_float32_so_that_far_positions_stay_apart():
    """KNOWN_BUGS 14: in bfloat16 positions above 256 collide."""
    sin, cos = rotary.tables(jnp.asarray([[4096, 4097]]), H)
    assert sin.dtype == cos.dtype == jnp.float32
    np.testing.assert_allclose(sin[0, :, 0], np.sin([4096.0, 4097.0]), atol=1e-6)
    x = jax.random.normal(jax.random.key(0), (1, 2, 1, H))
    low = rotated(x.astype(jnp.bfloat16), [[4096, 4097]])
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), rotated(x, [[4096, 4097]]), atol=0.03)


def test_positions_belong_to_their_row():
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, 1, 1, H)), (2, 3, 1, H))
    got = rotated(x, [[0, 1, 2], [2, 0, 1]])
    np.testing.assert_array_equal(got[0, 2], got[1, 0])
    np.testing.assert_array_equal(got[0, 0], x[0, 0])


def test_linear_scaling_is_a_position_divided_by_the_factor():
    plain, _ = rotary.frequencies(H)
    np.testing.assert_allclose(rotary.frequencies(H, scaling={"type": "linear", "factor": 4.0})[0], plain / 4, rtol=1e-6)


def test_ntk_keeps_the_fastest_plane_and_stretches_the_slowest_by_the_factor():
    plain, _ = rotary.frequencies(H)
    scaled, _ = rotary.frequencies(H, scaling={"type": "ntk", "factor": 4.0})
    np.testing.assert_allclose([scaled[0] / plain[0], scaled[-1] / plain[-1]], [1, 1 / 4], rtol=1e-5)


@pytest.mark.parametrize("name", ["yarn", "llama3"])
def test_ramps_keep_fast_planes_divide_slow_ones_and_are_monotone(name):
    plain, _ = rotary.frequencies(128, 500_000.0)
    scaled, magnitude = rotary.frequencies(128, 500_000.0, {"type": name, "factor": 8.0, "original_max_length": 8192})
    ratio = scaled / plain
    np.testing.assert_allclose([ratio[0], ratio[-1]], [1, 1 / 8], rtol=1e-5)
    assert (np.diff(ratio) <= 1e-7).all() and ((ratio > 0.13) & (ratio < 0.99)).sum() > 3
    assert magnitude == pytest.approx(0.1 * np.log(8) + 1 if name == "yarn" else 1.0)


def test_llama3_ramp_equals_the_published_rule_by_wavelength():
    plain, _ = rotary.frequencies(64, 500_000.0)
    got, _ = rotary.frequencies(64, 500_000.0, {"type": "llama3", "factor": 32.0, "original_max_length": 8192})
    for f, scaled in zip(plain.astype(np.float64), got, strict=True):
        wavelength = 2 * np.pi / f
        if wavelength < 8192 / 4:
            expected = f
        elif wavelength > 8192 / 1:
            expected = f / 32
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected = (1 - smooth) * f / 32 + smooth * f
        assert scaled == pytest.approx(expected, rel=1e-5)


def test_wrong_scalings_are_refused():
    with pytest.raises(UserError, match='Did you mean "yarn"'):
        rotary.frequencies(H, scaling={"type": "yarm", "factor": 2.0})
    with pytest.raises(UserError, match='Did you mean "factor"'):
        rotary.frequencies(H, scaling={"type": "linear", "facter": 2.0})
    with pytest.raises(UserError, match="needs original_max_length"):
        rotary.frequencies(H, scaling={"type": "llama3", "factor": 2.0})
    with pytest.raises(ValueError, match="even head_dim"):
        rotary.frequencies(5)
