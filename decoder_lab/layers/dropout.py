"""Dropout as a module: the key comes from the stream "dropout", a different one for every module and every layer."""

import flax.linen as nn
import jax

from decoder_lab.ops import dropout as ops


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` unless `deterministic`; without dropout no key is asked for."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        if deterministic or self.rate == 0.0:
            return x
        return ops.dropout(x, self.make_rng("dropout"), self.rate)
