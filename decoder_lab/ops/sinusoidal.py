"""Sinusoidal position encoding (Vaswani et al. 2017, section 3.5): sines in the first half of the width, cosines in the second."""

import jax
import jax.numpy as jnp


def sinusoidal(positions_BT: jax.Array, width: int, max_wavelength: float = 10_000.0) -> jax.Array:
    """Returns float32 encodings_BTD in [-1, 1]; wavelengths grow geometrically from 2 pi to 2 pi * max_wavelength. Even widths only."""
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, got {width}")
    half = width // 2
    # a width of 2 has one wavelength, and nothing to interpolate
    exponents_H = jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1)
    frequencies_H = jnp.float32(max_wavelength) ** -exponents_H
    angles_BTH = positions_BT.astype(jnp.float32)[..., None] * frequencies_H[None, None, :]
    return jnp.concatenate([jnp.sin(angles_BTH), jnp.cos(angles_BTH)], axis=-1)
