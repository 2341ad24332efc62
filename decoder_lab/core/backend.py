"""The platform that programs are compiled for: where this process computes, or another one that a plan is made for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_OTHER: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    return _OTHER.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Inside, `platform()` is this one: what is traced here is for devices that are not attached."""
    token = _OTHER.set(name)
    try:
        yield
    finally:
        _OTHER.reset(token)
