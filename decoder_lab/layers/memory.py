"""What an encoder hands to whoever reads it: a decoder, a pooling layer, a head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Memory:
    """An encoded batch; every leaf has the batch on axis 0.

    Attributes:
      values_BSD: one vector an input position, in the compute dtype; what stands at padding is undefined and must not be read.
      segments_BS: int32, 0 is padding.
      states: final states of a recurrent encoder, one entry a layer, `h_BD` or `(c_BD, h_BD)`, directions concatenated; () elsewhere.
      prepared: what a decoder works out once a source and reads at every step, such as projected keys and values (`Decoder.prepare`);
        None before that.
      embeddings_BSD: what the encoder was fed, where it keeps that for a decoder that attends it beside the values (ConvS2S); else None.
      segment_states: `states` of the document that each entry belongs to, [B, S, D]; undefined at padding.
    """

    values_BSD: jax.Array
    segments_BS: jax.Array
    states: tuple = ()
    prepared: Any = None
    embeddings_BSD: jax.Array | None = None
    segment_states: tuple = ()

    def without_padding(self) -> "Memory":
        """Returns the memory with zeros for the values and embeddings of padding, which may be NaN: times a weight of 0 that stays one."""

        def real(x_BSD):
            return None if x_BSD is None else jnp.where((self.segments_BS != 0)[..., None], x_BSD, jnp.zeros((), x_BSD.dtype))

        return self.replace(values_BSD=real(self.values_BSD), embeddings_BSD=real(self.embeddings_BSD))
