"""Dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops.dropout import dropout

pytestmark = pytest.mark.usefixtures("strict_numerics")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rate_and_scale(dtype):
    kept = np.asarray(jax.jit(lambda key: dropout(jnp.ones((1000, 100), dtype), key, 0.2))(jax.random.key(0)), np.float32)
    assert (kept == 0).mean() == pytest.approx(0.2, abs=0.005)
    assert np.unique(kept[kept > 0]) == pytest.approx(1.25, rel=4e-3)


def test_rate_zero_is_the_identity_and_one_is_refused():
    x = jnp.arange(4.0)
    assert dropout(x, jax.random.key(0), 0.0) is x
    with pytest.raises(ValueError, match="below 1"):
        dropout(x, jax.random.key(0), 1.0)
