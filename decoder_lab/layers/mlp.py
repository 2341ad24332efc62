"""The feed-forward block, plain or gated."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.linear import Linear

Kind = Literal["gelu", "gelu_exact", "relu", "squared_relu", "silu", "swiglu", "geglu"]

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=True),
    "gelu_exact": lambda x: nn.gelu(x, approximate=False),
    "relu": nn.relu,
    "squared_relu": lambda x: jnp.square(nn.relu(x)),
    "silu": nn.silu,
    "swiglu": nn.silu,
    "geglu": lambda x: nn.gelu(x, approximate=True),
}
GATED = ("swiglu", "geglu")


class Mlp(nn.Module):
    """down(activation(up(x))), or gated (Shazeer 2020): down(activation(gate(x)) * up(x)).

    "gelu" is the tanh form of GPT-2, "gelu_exact" that with erf; "squared_relu" is Primer's (So et al. 2021),
    "silu" (swish) Marian's.
    """

    mlp_dim: int
    kind: Kind = "gelu"
    use_bias: bool = True
    stddev: float = 0.02
    out_stddev: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.kind]
        up_BTF = Linear(self.mlp_dim, self.use_bias, self.stddev, self.dtype, name="up")(x_BTD)
        if self.kind in GATED:
            gate_BTF = Linear(self.mlp_dim, self.use_bias, self.stddev, self.dtype, name="gate")(x_BTD)
            hidden_BTF = activation(gate_BTF) * up_BTF
        else:
            hidden_BTF = activation(up_BTF)
        return Linear(x_BTD.shape[-1], self.use_bias, self.out_stddev, self.dtype, name="down")(hidden_BTF)
