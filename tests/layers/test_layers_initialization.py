"""Initial values."""

import jax
import numpy as np
import pytest

from decoder_lab.layers.initialization import normal, orthogonal

pytestmark = pytest.mark.usefixtures("strict_numerics")


def test_values_are_normal_and_independent():
    init = jax.jit(normal(1.0), static_argnums=1)
    a, b = (np.asarray(init(key, (1000, 500))) for key in jax.random.split(jax.random.key(0)))
    for x in (a, b):
        assert abs(x.mean()) < 5e-3 and x.std() == pytest.approx(1, abs=5e-3)
        assert (x**4).mean() == pytest.approx(3, abs=0.03)  # a normal distribution's kurtosis
        assert (np.abs(x) < 1).mean() == pytest.approx(0.6827, abs=3e-3)
        assert np.abs(x).max() > 4
    flat = a.ravel()
    for other in (b.ravel(), np.roll(flat, 1), np.roll(flat, 500), np.roll(flat, 4096)):
        assert abs(np.corrcoef(flat, other)[0, 1]) < 6e-3


def test_the_same_key_gives_the_same_values_also_sharded_and_for_raw_keys():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.jit(lambda key: normal(0.02)(key, (64, 16)), out_shardings=jax.NamedSharding(mesh, jax.P("data")))
    np.testing.assert_array_equal(sharded(jax.random.key(5)), normal(0.02)(jax.random.key(5), (64, 16)))
    np.testing.assert_array_equal(normal(0.02)(jax.random.PRNGKey(5), (64, 16)), normal(0.02)(jax.random.key(5), (64, 16)))


def test_orthogonal_matrices_are_orthogonal_and_evenly_distributed():
    """Every entry of an even one has mean 0 and variance 1 / N, both signs of the determinant are as likely, the trace has variance 1."""
    many = np.asarray(jax.jit(orthogonal, static_argnums=1)(jax.random.key(0), (4000, 6, 6)))
    np.testing.assert_allclose(np.einsum("GMN,GKN->GMK", many, many), np.broadcast_to(np.eye(6), many.shape), atol=2e-6)
    np.testing.assert_allclose(many.mean(0), 0, atol=0.03)
    np.testing.assert_allclose((many**2).mean(0), 1 / 6, atol=0.015)
    assert abs((np.linalg.det(many) > 0).mean() - 0.5) < 0.03
    trace = np.trace(many, axis1=1, axis2=2)
    assert abs(trace.mean()) < 0.06 and trace.var() == pytest.approx(1, abs=0.1)
