"""Sinusoidal position encoding (Vaswani et al. 2017, section 3.5): sines in the first half of the width, cosines in the second.

Two conventions are about. The paper's formula has wavelengths 2 pi 10000^(2i/D), which stop short of 2 pi 10000; the authors' code
(tensor2tensor, fairseq) spreads as many of them up to it. Marian and XLM have the paper's.
"""

import jax
import jax.numpy as jnp


def sinusoidal(positions_BT: jax.Array, width: int, max_wavelength: float = 10_000.0, paper: bool = False) -> jax.Array:
    """Returns float32 encodings_BTD in [-1, 1]; wavelengths grow geometrically from 2 pi to 2 pi * max_wavelength, which the
    `paper` leaves out. Even widths only."""
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, got {width}")
    half = width // 2
    # a width of 2 has one wavelength, and nothing to interpolate
    exponents_H = jnp.arange(half, dtype=jnp.float32) / (half if paper else max(half - 1, 1))
    frequencies_H = jnp.float32(max_wavelength) ** -exponents_H
    angles_BTH = positions_BT.astype(jnp.float32)[..., None] * frequencies_H[None, None, :]
    return jnp.concatenate([jnp.sin(angles_BTH), jnp.cos(angles_BTH)], axis=-1)
