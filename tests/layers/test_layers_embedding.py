"""The embedding and its use as unembedding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.embedding import Embedding

pytestmark = pytest.mark.usefixtures("strict_numerics")


@pytest.fixture
def layer_and_params():
    layer = Embedding(5, 3)
    return layer, layer.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def test_rows_and_products(layer_and_params):
    layer, params = layer_and_params
    table = np.asarray(params["params"]["embedding"])
    np.testing.assert_array_equal(layer.apply(params, jnp.asarray([[4, 0]]))[0], table[[4, 0]])
    x = jax.random.normal(jax.random.key(1), (2, 3, 3))
    np.testing.assert_allclose(layer.apply(params, x, method="attend"), np.asarray(x) @ table.T, rtol=1e-5, atol=1e-7)


def test_an_index_out_of_range_is_not_clamped_silently(layer_and_params):
    layer, params = layer_and_params
    assert np.isnan(np.asarray(layer.apply(params, jnp.asarray([[5]])))).all()


def test_gradients_of_repeated_tokens_add_up(layer_and_params):
    layer, params = layer_and_params
    gradient = jax.grad(lambda p: layer.apply(p, jnp.asarray([[2, 2, 1]])).sum())(params)["params"]["embedding"]
    np.testing.assert_array_equal(gradient[:, 0], [0, 1, 2, 0, 0])
