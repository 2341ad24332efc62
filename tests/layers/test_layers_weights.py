"""Parameters as arrays."""

import jax
import pytest

from decoder_lab.layers.weights import Weights


def test_kernel_and_bias_begin_as_they_should():
    params = Weights(300).init(jax.random.key(0), 400)["params"]
    assert float(params["kernel"].std()) == pytest.approx(400**-0.5, rel=0.02) and not params["bias"].any()
    assert set(Weights(3, use_bias=False).init(jax.random.key(0), 4)["params"]) == {"kernel"}
