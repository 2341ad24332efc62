"""Characters of words: padding is not read, and every word is by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.characters import Characters

pytestmark = pytest.mark.usefixtures("strict_numerics")

CHARS = jnp.asarray([[[3, 4, 5], [6, 0, 0]], [[2, 2, 0], [0, 0, 0]]], jnp.int32)


@pytest.mark.parametrize("kind", ["cnn", "lstm"])
def test_words_are_read_by_themselves_and_without_padding(kind):
    """KNOWN_BUGS 7, 21: longer padding changes nothing; a word without characters gives zeros, with finite gradients."""
    layer = Characters(9, kind, embedding_dim=4, features=6)
    params = jax.jit(layer.init)(jax.random.key(0), CHARS)
    wide = jnp.pad(CHARS, ((0, 0), (0, 0), (0, 2)))

    @jax.jit
    def run(params):
        def total(params):
            return jnp.sum(jnp.square(layer.apply(params, wide)))

        alone = layer.apply(params, CHARS.reshape(4, 1, 3)).reshape(2, 2, 6)
        return layer.apply(params, CHARS), layer.apply(params, wide), alone, jax.grad(total)(params)

    plain, padded, alone, grads = run(params)
    np.testing.assert_allclose(padded, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone, plain, rtol=1e-5, atol=1e-6)
    assert not np.asarray(plain[1, 1]).any() and np.asarray(plain[0]).any(axis=-1).all()
    assert all(np.isfinite(g).all() and np.asarray(g).any() for g in jax.tree.leaves(grads))


def test_the_convolution_equals_its_definition():
    """Ma & Hovy 2016: the largest value of each filter over the word, zeros beyond its ends."""
    layer = Characters(9, "cnn", embedding_dim=4, features=6)
    params = jax.jit(layer.init)(jax.random.key(0), CHARS)
    found = jax.jit(layer.apply)(params, CHARS)[0, 0]
    table = np.asarray(params["params"]["embedding"]["embedding"])
    kernel, bias = (np.asarray(params["params"]["convolution"]["linear"][name]) for name in ("kernel", "bias"))
    word = np.concatenate([np.zeros((1, 4)), table[[3, 4, 5]], np.zeros((1, 4))])
    maps = np.stack([word[i : i + 3].reshape(-1) @ kernel + bias for i in range(3)])
    np.testing.assert_allclose(found, maps.max(axis=0), rtol=1e-4, atol=1e-6)
