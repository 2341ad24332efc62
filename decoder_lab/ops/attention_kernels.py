"""Which implementation of attention computes: what each can do, and what "auto" takes (`ops/attention.py` has the table of them)."""

from typing import Literal

import jax.numpy as jnp

from decoder_lab.core.errors import UserError, unknown
from decoder_lab.ops import masks, splash_attention

Implementation = Literal["auto", "reference", "blocked", "xla", "cudnn", "splash"]
IMPLEMENTATIONS = ("auto", "reference", "blocked", "xla", "cudnn", "splash")
RECOMPUTE_FROM = 1024  # queries; below, keeping the weights for the backward pass is faster than computing them twice


def resolve(
    implementation: Implementation,
    *,
    platform: str,
    dtype: jnp.dtype,
    num_queries: int,
    num_keys: int,
    head_dim: int,
    masked: bool,
    causal: masks.Causality = "rows",
    softcap: float | None = None,
    dropout_rate: float = 0.0,
    score: str = "scaled_dot",
    beyond_segments: bool | None = None,
) -> str:
    """Returns the implementation really used: `auto` becomes a name, anything else is checked.

    platform: "cpu", "gpu", "tpu" (`jax.default_backend()`). masked: whether a mask or a bias is handed to the kernel: segments, a prefix, a
    bias_fn, anything but causality and windows by rows. beyond_segments: whether anything but those and segments is; None: as `masked`.
    Errors: UserError when what was asked for is unknown or impossible, saying why.
    """
    if implementation not in IMPLEMENTATIONS:
        raise UserError(unknown("attention implementation", implementation, IMPLEMENTATIONS))
    obstacles = _fused_obstacles(softcap, dropout_rate, score)
    cudnn_obstacles = [*_cudnn_obstacles(platform, dtype, head_dim, (num_queries, num_keys), masked), *obstacles]
    if implementation == "cudnn" and cudnn_obstacles:
        raise UserError(f'attention="cudnn" is not possible: {"; ".join(cudnn_obstacles)}. Use attention="auto".')
    beyond = masked if beyond_segments is None else beyond_segments
    splash_obstacles = [
        *_splash_obstacles(platform, (num_queries, num_keys), causal, beyond),
        *[o for o in obstacles if "soft cap" not in o],
    ]
    if implementation == "splash" and splash_obstacles:
        raise UserError(f'attention="splash" is not possible: {"; ".join(splash_obstacles)}. Use attention="auto".')
    if implementation == "xla" and obstacles:
        raise UserError(f'attention="xla" is not possible: {"; ".join(obstacles)}. Use attention="auto".')
    if implementation != "auto":
        return implementation
    if num_queries == 1 or causal == "positions":
        return "reference"
    if not cudnn_obstacles:
        return "cudnn"
    if not splash_obstacles and num_queries >= RECOMPUTE_FROM:
        return "splash"
    if platform == "cpu" or num_queries >= RECOMPUTE_FROM or obstacles:
        return "blocked"
    return "xla"


def _fused_obstacles(softcap: float | None, dropout_rate: float, score: str) -> list[str]:
    found = ["it has no logit soft cap"] if softcap is not None else []
    if score != "scaled_dot":
        found.append("it knows no score but the scaled dot product")
    return found + (["it has no dropout of attention weights"] if dropout_rate else [])


def _cudnn_obstacles(platform: str, dtype: jnp.dtype, head_dim: int, lengths: tuple[int, int], masked: bool) -> list[str]:
    found = []
    if platform not in ("gpu", "cuda"):
        found.append(f"it needs an NVIDIA GPU, this is {platform}")
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
        found.append(f"it computes in bfloat16 or float16, not in {jnp.dtype(dtype).name}")
    if head_dim % 8 or head_dim > 128:
        found.append(f"head_dim must be a multiple of 8 and at most 128, not {head_dim}")
    if masked and any(length % 2 for length in lengths):
        found.append(f"its gradient under a mask or a bias needs even numbers of queries and keys, not {lengths[0]} and {lengths[1]}")
    return found


def _splash_obstacles(platform: str, lengths: tuple[int, int], causal: masks.Causality, beyond_segments: bool) -> list[str]:
    found = [] if platform == "tpu" else [f"it needs a TPU, this is {platform}"]
    if any(length % splash_attention.LANES for length in lengths):
        found.append(f"queries and keys must be multiples of {splash_attention.LANES}, not {lengths[0]} and {lengths[1]}")
    if causal == "positions":
        found.append("it knows rows, not positions as a cache has them")
    if beyond_segments:
        found.append("it knows causality, windows by rows and segments, no prefix and no bias")
    return found
