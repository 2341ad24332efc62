"""Rotary position embedding (Su et al. 2021, RoFormer) with the published ways to stretch it over longer contexts.

Convention: dimension i is rotated together with dimension i + H/2 ("half" layout of GPT-NeoX and of Hugging Face's Llama). Angles, sines
and cosines are float32 whatever the compute dtype: in bfloat16 positions above 256 would collide.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError, unknown

SCALINGS = {  # name -> (required settings, optional settings with defaults)
    "linear": (("factor",), {}),
    "ntk": (("factor",), {}),
    "yarn": (("factor", "original_max_length"), {"beta_fast": 32.0, "beta_slow": 1.0}),
    "llama3": (("factor", "original_max_length"), {"low_freq_factor": 1.0, "high_freq_factor": 4.0}),
}


def check_scaling(scaling: Mapping) -> dict:
    """Returns the scaling with its defaults filled in ({} stays {}). Errors: UserError on an unknown type or setting, or a missing one."""
    if not scaling:
        return {}
    name = scaling.get("type")
    if name not in SCALINGS:
        raise UserError(unknown("rope_scaling type", str(name), SCALINGS))
    required, optional = SCALINGS[name]
    given = {k: v for k, v in scaling.items() if k != "type"}
    for key in given:
        if key not in (*required, *optional):
            raise UserError(unknown(f"rope_scaling of type {name}", key, (*required, *optional)))
    missing = [key for key in required if key not in given]
    if missing:
        raise UserError(f'rope_scaling of type "{name}" needs {", ".join(missing)}; got {given}.')
    return {"type": name, **optional, **given}


def frequencies(head_dim: int, theta: float = 10_000.0, scaling: Mapping | None = None) -> tuple[np.ndarray, float]:
    """Returns (float32 radians per position of each of the head_dim / 2 planes, factor on sine and cosine).

    scaling: {"type": "linear" | "ntk" | "yarn" | "llama3", "factor": f, ...}.
    linear: positions divided by f (Chen et al. 2023). ntk: theta * f^(H/(H-2)) (bloc97 2023), which leaves the fastest plane alone.
    yarn: planes that turn more than beta_fast times within original_max_length are kept, those below beta_slow are divided by f, a linear
    ramp between; sine and cosine times 0.1 ln f + 1 (Peng et al. 2023). llama3: the same idea by wavelength, ramp in 1/wavelength (Llama
    3.1).
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions need an even head_dim, got {head_dim}")
    scaling = check_scaling(scaling or {})
    factor = float(scaling.get("factor", 1.0))
    if scaling.get("type") == "ntk":
        theta = theta * factor ** (head_dim / max(head_dim - 2, 1))
    planes = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    plain = theta**-planes
    match scaling.get("type"):
        case "linear":
            return (plain / factor).astype(np.float32), 1.0
        case "yarn":
            kept = _yarn_kept(planes, theta, scaling)
            return (plain * kept + plain / factor * (1 - kept)).astype(np.float32), 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        case "llama3":
            turns = scaling["original_max_length"] * plain / (2 * math.pi)
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
            return (plain * kept + plain / factor * (1 - kept)).astype(np.float32), 1.0
        case _:
            return plain.astype(np.float32), 1.0


def _yarn_kept(planes: np.ndarray, theta: float, scaling: Mapping) -> np.ndarray:
    """Returns the share (0..1) of each plane's own frequency that YaRN keeps; its ramp is linear in the index of the plane."""
    head_dim = 2 * len(planes)

    def index_of(turns: float) -> float:
        return head_dim * math.log(scaling["original_max_length"] / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(index_of(scaling["beta_fast"])), 0)
    high = min(math.ceil(index_of(scaling["beta_slow"])), head_dim - 1)
    ramp = (np.arange(len(planes)) - low) / max(high - low, 1e-3)
    return 1.0 - np.clip(ramp, 0.0, 1.0)


def tables(positions_BT: jax.Array, head_dim: int, theta: float = 10_000.0, scaling: Mapping | None = None) -> tuple[jax.Array, jax.Array]:
    """Returns float32 (sin_BTP, cos_BTP) with P = head_dim / 2, to be shared by all layers."""
    frequencies_P, magnitude = frequencies(head_dim, theta, scaling)
    angles_BTP = positions_BT.astype(jnp.float32)[:, :, None] * jnp.asarray(frequencies_P)[None, None, :]
    return jnp.sin(angles_BTP) * magnitude, jnp.cos(angles_BTP) * magnitude


def rotate(x_BTNH: jax.Array, sin_BTP: jax.Array, cos_BTP: jax.Array) -> jax.Array:
    """Rotates every head by its position's angles, in float32; the result has the dtype of the input. B of the tables may be 1."""
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    sin, cos = sin_BTP[:, :, None, :], cos_BTP[:, :, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTNH.dtype)
