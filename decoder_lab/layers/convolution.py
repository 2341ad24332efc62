"""Convolutions over time that read neither padding nor another document, forward-looking or causal, with an explicit cache.

A row is cut into documents by its segments (1, 2, ...; 0 is padding): what lies outside the document of an output position counts as zero,
exactly as what lies outside the row. So padding to the left or right of a document never changes a value, whatever it holds. Padding inside
a document takes up room in windows, as zeros: there a convolution sees a gap.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.linear import Linear


def windows(x_BTD: jax.Array, segments_BT: jax.Array | None, offsets: tuple[int, ...], history: tuple | None = None) -> jax.Array:
    """Returns windows_BTKD: for every position t the entries t + offset of its own document, zeros where there is none.

    Args:
      offsets: K distances, negative is the past.
      history: (x_BHD, segments_BH) of the H entries before, for offsets that are not positive; segments_BT must then be given.
    """
    length = x_BTD.shape[1]
    left, right = max(0, -min(offsets)), max(0, max(offsets))
    if history is None:
        x_BSD = jnp.pad(x_BTD, ((0, 0), (left, right), (0, 0)))
        segments_BS = None if segments_BT is None else jnp.pad(segments_BT, ((0, 0), (left, right)))
    else:
        if right or history[0].shape[1] != left:
            raise ValueError(f"a history of {history[0].shape[1]} entries does not suit the offsets {offsets}")
        x_BSD = jnp.concatenate([history[0], x_BTD], axis=1)
        segments_BS = jnp.concatenate([history[1], segments_BT], axis=1)
    parts = []
    for offset in offsets:
        start = left + offset
        part_BTD = x_BSD[:, start : start + length]
        if segments_BS is not None:
            visible_BT = (segments_BS[:, start : start + length] == segments_BT) & (segments_BT != 0)
            # where, not a product: what stands in padding may be anything
            part_BTD = jnp.where(visible_BT[..., None], part_BTD, jnp.zeros((), x_BTD.dtype))
        parts.append(part_BTD)
    return jnp.stack(parts, axis=2)


class Convolution(nn.Module):
    """x_BTD -> y_BTF over a window of `kernel_size` positions: the position in the middle, or the last one if `causal`.

    An even window has its extra position on the right. The kernel is [kernel_size * D, F] below `linear`, the oldest position first.
    Initial values keep the variance of the input times `gain` (Gehring et al. 2017, section 3.5: 4 * (1 - dropout) before a GLU).
    """

    features: int
    kernel_size: int
    causal: bool = False
    gain: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segments_BT: jax.Array | None = None, history: tuple | None = None) -> jax.Array:
        """Returns y_BTF; `history` = (x_BHD, segments_BH) are the H = kernel_size - 1 entries before, of a causal convolution."""
        batch, length, width = x_BTD.shape
        past = self.kernel_size - 1 if self.causal else (self.kernel_size - 1) // 2
        offsets = tuple(range(-past, self.kernel_size - past))
        windows_BTKD = windows(x_BTD, segments_BT, offsets, history)
        stddev = math.sqrt(self.gain / (self.kernel_size * width))
        return Linear(self.features, True, stddev, self.dtype, name="linear")(windows_BTKD.reshape(batch, length, -1))


def glu(x_BTF: jax.Array) -> jax.Array:
    """Gated linear unit (Dauphin et al. 2017): the first half of the features times the sigmoid of the second."""
    value, gate = jnp.split(x_BTF, 2, axis=-1)
    return value * nn.sigmoid(gate)


class GatedConvolution(nn.Module):
    """Dropout, convolution to twice the width, GLU: the block of Gehring et al. 2017 before its attention and its residual."""

    features: int
    kernel_size: int
    causal: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, segments_BT: jax.Array | None = None, history: tuple | None = None, deterministic: bool = True
    ) -> jax.Array:
        x_BTD = Dropout(self.dropout)(x_BTD, deterministic)
        convolution = Convolution(2 * self.features, self.kernel_size, self.causal, 4 * (1 - self.dropout), self.dtype, name="convolution")
        return glu(convolution(x_BTD, segments_BT, history))
