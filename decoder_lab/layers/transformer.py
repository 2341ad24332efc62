"""The residual block and the stack of blocks; where norms go, whether layers are scanned, and what the backward pass recomputes."""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.attention import Context
from decoder_lab.layers.dropout import Dropout

NormPosition = Literal["pre", "post", "sandwich"]
Remat = Literal["none", "full", "dots", "dots_no_batch"]

POLICIES = {
    "full": None,  # keep only the input of each layer
    "dots": jax.checkpoint_policies.dots_saveable,  # keep every matrix product
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep those with weights, not attention's
}


class Block(nn.Module):
    """Attention and MLP around the residual stream.

    pre: x + f(norm(x)) (GPT-2); post: norm(x + f(x)) (Vaswani et al. 2017); sandwich: x + norm(f(norm(x))) (CogView, Gemma 2).
    parallel_residual: x + attention(norm(x)) + mlp(norm(x)) with one shared norm (GPT-J, PaLM). `attention`, `mlp` and `norm` make modules,
    given a name.
    """

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    norm_position: NormPosition = "pre"
    parallel_residual: bool = False
    dropout: float = 0.0
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context, cache: dict | None = None, layer: jax.Array | None = None):
        """Returns (x_BTD, cache)."""

        def attention(y_BTD):
            nonlocal cache
            out_BTD, cache = self.attention(name="attention")(y_BTD, context, cache, layer, deterministic=self.deterministic)
            return Dropout(self.dropout, name="attention_dropout")(out_BTD, self.deterministic)

        def mlp(y_BTD):
            return Dropout(self.dropout, name="mlp_dropout")(self.mlp(name="mlp")(y_BTD), self.deterministic)

        def after(out_BTD, name):
            return self.norm(name=name)(out_BTD) if self.norm_position == "sandwich" else out_BTD

        if self.parallel_residual:
            y_BTD = x_BTD if self.norm_position == "post" else self.norm(name="norm")(x_BTD)
            x_BTD = x_BTD + after(attention(y_BTD), "attention_post_norm") + after(mlp(y_BTD), "mlp_post_norm")
            return (self.norm(name="norm")(x_BTD) if self.norm_position == "post" else x_BTD), cache
        for part, name in ((attention, "attention"), (mlp, "mlp")):
            if self.norm_position == "post":
                x_BTD = self.norm(name=f"{name}_norm")(x_BTD + part(x_BTD))
            else:
                x_BTD = x_BTD + after(part(self.norm(name=f"{name}_norm")(x_BTD)), f"{name}_post_norm")
        return x_BTD, cache


class _ScannedBlock(nn.Module):
    """A block as the body of a scan; the whole cache is carried, so that each layer writes in place."""

    block: Callable[..., Block]

    @nn.compact
    def __call__(self, carry, context: Context):
        x_BTD, cache, layer = carry
        x_BTD, cache = self.block(name="block")(x_BTD, context, cache, layer)
        return (x_BTD, cache, layer + 1), None


class Stack(nn.Module):
    """`num_layers` blocks. Unrolled, parameters are layer_0, layer_1, ...; scanned (one compilation for all), layers/block with a leading
    axis L.

    The cache is a tuple of {"key", "value"} [B, K, S, H], or when scanned one such dict with the layer on axis 1.
    """

    block: Callable[..., Block]
    num_layers: int
    scan: bool = False
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context, cache=None, deterministic: bool = True):
        """Returns (x_BTD, cache)."""
        make_block = functools.partial(self.block, deterministic=deterministic)
        if self.is_initializing():
            self._initialize(x_BTD, context)
            return x_BTD, cache
        if self.scan:
            body = _ScannedBlock if self._keeps_all(cache) else nn.remat(_ScannedBlock, policy=POLICIES[self.remat], prevent_cse=False)
            axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}}
            layers = nn.scan(body, **axes, in_axes=nn.broadcast, length=self.num_layers)(make_block, name="layers")
            (x_BTD, cache, _), _ = layers((x_BTD, cache, jnp.zeros((), jnp.int32)), context)
            return x_BTD, cache
        new_cache = []
        for i in range(self.num_layers):
            block = make_block(name=f"layer_{i}")
            layer_cache = None if cache is None else cache[i]
            if self._keeps_all(cache):
                x_BTD, layer_cache = block(x_BTD, context, layer_cache)
            else:
                x_BTD, _ = nn.remat(_apply, policy=POLICIES[self.remat])(block, x_BTD, context)
            new_cache.append(layer_cache)
        return x_BTD, None if cache is None else tuple(new_cache)

    def _initialize(self, x_BTD: jax.Array, context: Context) -> None:
        """Draws all layers at once: the same values scanned or unrolled, and one layer to trace and compile whatever their number."""
        keys_L = jax.random.split(self.make_rng("params"), self.num_layers)
        block = self.block(parent=None)
        stacked = jax.vmap(lambda key: block.init(key, x_BTD, context)["params"])(keys_L)
        if self.scan:
            self.put_variable("params", "layers", {"block": stacked})
        for i in range(0 if self.scan else self.num_layers):
            self.put_variable("params", f"layer_{i}", jax.tree.map(lambda a, i=i: a[i], stacked))

    def _keeps_all(self, cache) -> bool:
        return self.remat == "none" or cache is not None


def _apply(block: Block, x_BTD: jax.Array, context: Context):
    return block(x_BTD, context)
