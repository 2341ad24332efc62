"""The residual block and the stack of blocks; where norms go, whether layers are scanned, and what the backward pass recomputes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.attention import Context
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.mixture_of_experts import LOSSES, MixtureOfExperts

NormPosition = Literal["pre", "post", "sandwich"]
Remat = Literal["none", "full", "dots", "dots_no_batch"]

STACKED = "stacked_layers"

POLICIES = {
    "full": None,  # keep only the input of each layer
    "dots": jax.checkpoint_policies.dots_saveable,  # keep every matrix product
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep those with weights, not attention's
}


class Block(nn.Module):
    """Attention, cross-attention where the context has a memory, and MLP around the residual stream.

    pre: x + f(norm(x)) (GPT-2); post: norm(x + f(x)) (Vaswani et al. 2017); sandwich: x + norm(f(norm(x))) (CogView, Gemma 2).
    parallel_residual: x + attention(norm(x)) + mlp(norm(x)) with one shared norm (GPT-J, PaLM). `attention`, `mlp`, `norm` and
    `cross_attention` make modules, given a name; what is never called has no parameters.
    """

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    norm_position: NormPosition = "pre"
    parallel_residual: bool = False
    dropout: float = 0.0
    cross_attention: Callable[..., nn.Module] | None = None

    def setup(self):
        self._attention, self._mlp = self.attention(name="attention"), self.mlp(name="mlp")
        if self.cross_attention is not None:
            self._cross_attention = self.cross_attention(name="cross_attention")
        parts = ("attention", "cross_attention", "mlp")
        names = ["norm"] if self.parallel_residual else [f"{part}_norm" for part in parts]
        if self.norm_position == "sandwich":
            names += [f"{part}_post_norm" for part in parts]
        self._norms = {name: self.norm(name=name) for name in names}
        self._dropouts = {part: Dropout(self.dropout, name=f"{part}_dropout") for part in parts}

    def prepare(self, values_BSD: jax.Array) -> Any:
        """Returns what cross-attention makes of a memory's values once."""
        return self._cross_attention.prepare(values_BSD)

    def __call__(self, x_BTD: jax.Array, context: Context, cache: dict | None = None, layer: jax.Array | None = None, prepared: Any = None):
        """Returns (x_BTD, cache). cache: this layer's, or that of all layers with `layer` its number; prepared: this layer's."""

        def attention(y_BTD):
            nonlocal cache
            out_BTD, cache = self._attention(y_BTD, context, cache, layer)
            return out_BTD

        # experts know which tokens are padding
        mlp = functools.partial(self._mlp, context=context) if isinstance(self._mlp, MixtureOfExperts) else self._mlp
        parts = {"attention": attention, "mlp": mlp}
        if context.memory is not None:
            cross_attention = functools.partial(self._cross_attention, context=context, prepared=prepared)
            parts = {"attention": attention, "cross_attention": cross_attention, "mlp": mlp}

        def run(part, y_BTD):
            return self._dropouts[part](parts[part](y_BTD), context.deterministic)

        def after(part, out_BTD):
            return self._norms[f"{part}_post_norm"](out_BTD) if self.norm_position == "sandwich" else out_BTD

        if self.parallel_residual:
            y_BTD = x_BTD if self.norm_position == "post" else self._norms["norm"](x_BTD)
            for part in parts:
                x_BTD = x_BTD + after(part, run(part, y_BTD))
            return (self._norms["norm"](x_BTD) if self.norm_position == "post" else x_BTD), cache
        for part in parts:
            norm = self._norms[f"{part}_norm"]
            if self.norm_position == "post":
                x_BTD = norm(x_BTD + run(part, x_BTD))
            else:
                x_BTD = x_BTD + after(part, run(part, norm(x_BTD)))
        return x_BTD, cache


class _Scanned(nn.Module):
    """The block of scanned layers, whose parameters have a leading axis L; those of `everywhere_L` see beyond their window."""

    make_block: Callable[..., Block]
    everywhere_L: tuple[bool, ...] = ()

    def setup(self):
        self._block = self.make_block(name="block")

    def step(self, carry, context: Context):
        """One layer; the whole cache is carried, so that each layer writes in place."""
        x_BTD, cache, layer = carry
        prepared = None if context.memory is None else context.memory.prepared
        if prepared is not None:
            prepared = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, layer, axis=1, keepdims=False), prepared)
        if self.everywhere_L:
            context = context.replace(everywhere=jnp.asarray(self.everywhere_L)[layer])
        x_BTD, cache = self._block(x_BTD, context, cache, layer, prepared)
        return (x_BTD, cache, layer + 1), None

    def prepare(self, carry, values_BSD):
        """What one layer's cross-attention makes of a memory's values."""
        return carry, self._block.prepare(values_BSD)


class Stack(nn.Module):
    """`num_layers` blocks. Unrolled, parameters are layer_0, layer_1, ...; scanned (one compilation for all), layers/block with a leading
    axis L; there global layers run the same block, which chooses between two compiled forms of attention; without remat it keeps what the
    gradients of both need.

    The cache is a tuple of {"key", "value"} [B, K, S, H], or when scanned one such dict with the layer on axis 1; so is what `prepare`
    returns.
    """

    block: Callable[..., Block]
    num_layers: int
    scan: bool = False
    remat: Remat = "none"
    global_block: Callable[..., Block] | None = None  # of `global_layers`: the same without a window
    global_layers: tuple[int, ...] = ()

    def setup(self):
        if self.scan:
            everywhere_L = tuple(i in self.global_layers for i in range(self.num_layers)) if self.global_layers else ()
            self._scanned = _Scanned(self.block, everywhere_L, name="layers")
        else:
            makers = [self.global_block if i in self.global_layers else self.block for i in range(self.num_layers)]
            self._blocks = [make(name=f"layer_{i}") for i, make in enumerate(makers)]

    def __call__(self, x_BTD: jax.Array, context: Context, cache=None):
        """Returns (x_BTD, cache)."""
        if self.is_initializing():
            self._initialize(x_BTD, context)
            return x_BTD, cache
        keeps_all = self.remat == "none" or cache is not None
        if self.scan:
            step = _Scanned.step if keeps_all else nn.remat(_Scanned.step, policy=POLICIES[self.remat], prevent_cse=False)
            axes = {"variable_axes": {"params": 0, "attention": 0, LOSSES: 0}, "split_rngs": {"params": True, "dropout": True}}
            layers = nn.scan(step, **axes, in_axes=nn.broadcast, length=self.num_layers)
            (x_BTD, cache, _), _ = layers(self._scanned, (x_BTD, cache, jnp.zeros((), jnp.int32)), context)
            return x_BTD, cache
        prepared = None if context.memory is None else context.memory.prepared
        new_cache = []
        for i, block in enumerate(self._blocks):
            layer_cache, layer_prepared = (None if parts is None else parts[i] for parts in (cache, prepared))
            if keeps_all:
                x_BTD, layer_cache = block(x_BTD, context, layer_cache, None, layer_prepared)
            else:
                x_BTD, _ = nn.remat(_apply, policy=POLICIES[self.remat])(block, x_BTD, context, layer_prepared)
            new_cache.append(layer_cache)
        return x_BTD, None if cache is None else tuple(new_cache)

    def prepare(self, values_BSD: jax.Array) -> Any:
        """Returns what the cross-attention of all layers makes of a memory's values; None while parameters do not exist yet."""
        if self.is_initializing():
            return None
        if self.scan:
            axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            layers = nn.scan(_Scanned.prepare, **axes, in_axes=nn.broadcast, out_axes=1, length=self.num_layers)
            return layers(self._scanned, (), values_BSD)[1]
        return tuple(block.prepare(values_BSD) for block in self._blocks)

    def _initialize(self, x_BTD: jax.Array, context: Context) -> None:
        """Draws all layers at once: the same values scanned or unrolled, and one layer to trace and compile whatever their number."""
        if context.memory is not None:
            context = context.replace(memory=context.memory.replace(prepared=None))
        keys_L = jax.random.split(self.make_rng("params"), self.num_layers)
        block = self.block(parent=None)
        stacked = jax.vmap(lambda key: block.init(key, x_BTD, context)["params"])(keys_L)
        if self.scan:
            self.put_variable("params", "layers", {"block": stacked})
        elif self.has_rng(STACKED):
            self.put_variable("params", STACKED, stacked)
        else:
            for i, layer in enumerate(_each(stacked)):
                self.put_variable("params", f"layer_{i}", layer)


def init_params(model: nn.Module, key: jax.Array, *args, place: Callable[[Any], Any] | None = None, **kwargs) -> Any:
    """Returns `model.init(key, *args, **kwargs)["params"]`, the same to the bit, compiled in a fraction of the time.

    place: tree of shapes -> tree of shardings by which they lie, from the first moment on.

    In one program each array of each unrolled layer is a kernel of its own: 192 of them are two of the three seconds that 124M parameters
    take on a CPU. Here one program draws the layers stacked and a small one, called for each layer, cuts them out.
    """

    def draw(key):
        return model.init({"params": key, STACKED: key}, *args, **kwargs)["params"]

    drawn = jax.jit(draw, out_shardings=place(jax.eval_shape(draw, key)) if place else None)(key)
    params = _split(drawn)
    return jax.device_put(params, place(params)) if place else params


def _split(params: Any) -> Any:
    """Returns params with every subtree {STACKED: layers} as layer_0, layer_1, ..."""
    if not isinstance(params, Mapping):
        return params
    split = {}
    for name, value in params.items():
        if name == STACKED:
            split |= {f"layer_{i}": layer for i, layer in enumerate(_each(value, jax.jit(_take)))}
        else:
            split[name] = _split(value)
    return split


def _take(stacked: Any, i: Any) -> Any:
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), stacked)


def _each(stacked: Any, take: Callable = _take) -> list[Any]:
    return [take(stacked, i) for i in range(len(jax.tree.leaves(stacked)[0]))]


def _apply(block: Block, x_BTD: jax.Array, context: Context, prepared: Any):
    return block(x_BTD, context, None, None, prepared)
