"""The affine map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.linear import Linear

pytestmark = pytest.mark.usefixtures("strict_numerics")


@pytest.mark.parametrize("use_bias", [True, False])
def test_it_is_x_times_kernel_plus_bias_for_any_rank(use_bias):
    layer = Linear(3, use_bias)
    x = jax.random.normal(jax.random.key(0), (2, 4, 5))
    params = layer.init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda p: p + 1, params)
    assert set(params) == ({"kernel", "bias"} if use_bias else {"kernel"})
    expected = np.asarray(x) @ np.asarray(params["kernel"]) + (1 if use_bias else 0)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-5)
    np.testing.assert_allclose(layer.apply({"params": params}, x[0, 0]), expected[0, 0], rtol=1e-5)


def test_parameters_stay_float32_and_the_result_has_the_asked_dtype():
    x = jnp.ones((2, 4))
    for out_dtype, expected in ((None, jnp.bfloat16), (jnp.float32, jnp.float32)):
        layer = Linear(3, dtype=jnp.bfloat16, out_dtype=out_dtype)
        params = layer.init(jax.random.key(0), x)
        assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
        assert layer.apply(params, x).dtype == expected
