"""ALiBi slopes and T5 buckets against their published values."""

import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops import position_bias

pytestmark = pytest.mark.usefixtures("strict_numerics")


def test_slopes_are_the_published_ones():
    np.testing.assert_allclose(position_bias.alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    twelve = [2.0**-i for i in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]
    np.testing.assert_allclose(position_bias.alibi_slopes(12), twelve, rtol=1e-6)


def test_alibi_falls_linearly_with_distance_whatever_the_offset():
    slopes = jnp.asarray([0.5, 0.25])
    near = position_bias.alibi(slopes, jnp.asarray([[3]]), jnp.asarray([[0, 2, 3]]))
    np.testing.assert_allclose(near[0, :, 0], [[-1.5, -0.5, 0], [-0.75, -0.25, 0]])
    np.testing.assert_array_equal(near, position_bias.alibi(slopes, jnp.asarray([[1003]]), jnp.asarray([[1000, 1002, 1003]])))


def test_t5_buckets_are_exact_near_and_logarithmic_far():
    distances = jnp.asarray([-3, 0, 1, 15, 16, 18, 20, 32, 64, 127, 128, 5000])
    # 16 + floor(16 * ln(d / 16) / ln 8), at most 31
    np.testing.assert_array_equal(position_bias.t5_buckets(distances), [0, 0, 1, 15, 16, 16, 17, 21, 26, 31, 31, 31])
    assert (np.diff(np.asarray(position_bias.t5_buckets(jnp.arange(300)))) >= 0).all()


def test_t5_looks_up_one_value_a_head():
    table = jnp.arange(64, dtype=jnp.float32).reshape(32, 2)
    bias = position_bias.t5(table, jnp.asarray([[20]]), jnp.asarray([[20, 17]]))
    np.testing.assert_array_equal(bias[0, :, 0], [[0, 6], [1, 7]])


def test_bidirectional_t5_buckets_halve_the_table_for_either_side():
    behind = position_bias.t5_buckets(jnp.arange(300), bidirectional=True)
    ahead = position_bias.t5_buckets(-jnp.arange(1, 300), bidirectional=True)
    np.testing.assert_array_equal(behind, position_bias.t5_buckets(jnp.arange(300), num_buckets=16))
    np.testing.assert_array_equal(ahead, behind[1:] + 16)
    # as in T5's code: 8 buckets of one distance each, then logarithmic up to 128
    np.testing.assert_array_equal(behind[jnp.asarray([0, 7, 8, 12, 127, 299])], [0, 7, 8, 9, 15, 15])
