"""A mixture of experts on a mesh: each device computes what the tokens of its rows, or of its expert axis, have to do with its experts.

Sorting tokens by expert is a matter of each device's own tokens. Where experts lie in pieces (axis "expert"), the devices on that axis see
each other's tokens, and their results are summed: nothing is left out however uneven the routes are (Gale et al. 2022), and what is sent is
a gather and a scatter of activations. Where each expert lies in pieces (axis "tensor"), the parts of its result are summed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from decoder_lab.core.axes import ROWS, TIME
from decoder_lab.layers.mixture_of_experts import mixed
from decoder_lab.ops.mixture import Routes, Weights
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel.layout import Axes, Layout


def mix(
    x_BTD: jax.Array,
    routes: Routes,
    place_BTK: jax.Array,
    weights: Weights,
    num_places: int,
    *,
    activation: Callable,
    layout: Layout,
    path: str,
) -> jax.Array | None:
    """Returns `layers.mixture_of_experts.mixed` of whole arrays; `path` is that of the module. None where the rows cannot be divided."""
    mesh = layout.mesh
    if x_BTD.shape[0] % meshes.num_shares(mesh):
        return None
    axes = {name: _axes(layout, f"{path}/{name}", leaf) for name, leaf in weights.items()}
    specs = {name: PartitionSpec(*(names or None for names in of)) for name, of in axes.items()}
    over_experts, _, over_tensor = axes["up_kernel"]
    rows = PartitionSpec(ROWS, TIME if x_BTD.shape[1] % mesh.shape[TIME] == 0 else None)

    def local(x_BTD: jax.Array, routes: Routes, place_BTK: jax.Array, weights: Weights) -> jax.Array:
        if over_experts:
            tokens = x_BTD, routes, place_BTK
            x_BTD, routes, place_BTK = jax.tree.map(lambda x: jax.lax.all_gather(x, over_experts, axis=0, tiled=True), tokens)
            routes = _own(routes, weights["up_kernel"].shape[0], jax.lax.axis_index(over_experts))
        if over_tensor and "down_bias" in weights:  # added once
            first = jax.lax.axis_index(over_tensor) == 0
            weights = {**weights, "down_bias": jnp.where(first, weights["down_bias"], 0.0)}
        y_BTD = mixed(x_BTD, routes, place_BTK, weights, num_places, activation)
        y_BTD = jax.lax.psum(y_BTD, over_tensor) if over_tensor else y_BTD
        return jax.lax.psum_scatter(y_BTD, over_experts, scatter_dimension=0, tiled=True) if over_experts else y_BTD

    inputs = rows, Routes(rows, rows), rows, specs
    return jax.shard_map(local, mesh=mesh, in_specs=inputs, out_specs=rows)(x_BTD, routes, place_BTK, dict(weights))


def _own(routes: Routes, num_own: int, index: jax.Array) -> Routes:
    """Returns the routes to a device's own experts, counted from 0; all others go to none."""
    experts_BTK = routes.experts_BTK - index * num_own
    own_BTK = (experts_BTK >= 0) & (experts_BTK < num_own)
    return Routes(jnp.where(own_BTK, experts_BTK, num_own), routes.shares_BTK)


def _axes(layout: Layout, path: str, leaf: jax.Array) -> Axes:
    """Returns how a weight enters: in pieces of experts and of their insides; pieces over fsdp are gathered before."""
    return tuple(tuple(name for name in names if name in ("expert", "tensor")) for names in layout.axes_of(path, leaf.shape))
