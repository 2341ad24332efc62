"""The platform that programs are compiled for: where this process computes, or another one that a plan is made for."""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import jax

# XLA's options for compiling a step over several devices, where its own choice is not the best. TPU's compiler overlaps what is sent with
# what is computed by itself (the plan's programs show it); on a CPU nothing is sent.
OPTIONS = {"gpu": {"xla_gpu_enable_latency_hiding_scheduler": True}}

_OTHER: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    return _OTHER.get() or jax.default_backend()


def is_stand_in() -> bool:
    """Whether the program is for a GPU, and devices that are none stand in for it: a GPU's own kernels cannot be compiled then."""
    return platform() == "gpu" != jax.default_backend()


def compiler_options(num_devices: int, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns XLA's options for a step over so many devices of the platform, `chosen` over those of `OPTIONS`."""
    return {**(OPTIONS.get(platform(), {}) if num_devices > 1 else {}), **chosen}


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Inside, `platform()` is this one: what is traced here is for devices that are not attached."""
    token = _OTHER.set(name)
    try:
        yield
    finally:
        _OTHER.reset(token)
