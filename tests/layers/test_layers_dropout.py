"""Dropout as a module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.dropout import Dropout

pytestmark = pytest.mark.usefixtures("strict_numerics")


class Two(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        return Dropout(0.5)(x, deterministic), Dropout(0.5)(x, deterministic)


def test_masks_differ_between_layers_and_keys_and_vanish_when_deterministic():
    """KNOWN_BUGS, reused keys: identical masks across layers or steps; 28: dropout left on in evaluation."""
    x = jnp.ones((8, 32))
    first, second = Two().apply({}, x, False, rngs={"dropout": jax.random.key(0)})
    again, _ = Two().apply({}, x, False, rngs={"dropout": jax.random.key(1)})
    assert not np.array_equal(first, second) and not np.array_equal(first, again)
    for y in Two().apply({}, x, True):
        np.testing.assert_array_equal(y, x)


def test_training_without_a_key_is_an_error():
    with pytest.raises(Exception, match="dropout"):
        Two().apply({}, jnp.ones((2, 2)), False)
