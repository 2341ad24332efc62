"""Sinusoidal positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops.sinusoidal import sinusoidal

pytestmark = pytest.mark.usefixtures("strict_numerics")


def test_values_and_distances():
    encoded = np.asarray(sinusoidal(jnp.asarray([[0, 1, 2, 501, 502]]), 8))[0]
    np.testing.assert_allclose(encoded[0], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose([encoded[1, 0], encoded[1, 3]], [np.sin(1), np.sin(1e-4)], rtol=1e-4)
    # a product depends on the distance alone
    assert encoded[1] @ encoded[2] == pytest.approx(encoded[3] @ encoded[4], abs=1e-4)


def test_the_papers_wavelengths_are_those_of_its_formula():
    """sin(pos / 10000^(2i/D)), as Marian has it; the authors' code spreads them a little further."""
    encoded = np.asarray(sinusoidal(jnp.asarray([[3]]), 8, paper=True))[0, 0]
    angles = 3 / 10000 ** (np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(encoded, [*np.sin(angles), *np.cos(angles)], rtol=1e-5)


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match="even width"):
        sinusoidal(jnp.asarray([[0]]), 3)
