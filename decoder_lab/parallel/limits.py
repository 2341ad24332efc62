"""What a model cannot do on a mesh, beyond the sizes of its parameters: said before anything is made."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from decoder_lab.core.axes import TENSOR, TIME
from decoder_lab.core.errors import UserError
from decoder_lab.parallel import mesh as meshes
from decoder_lab.parallel.layout import Layout


def check(config: Any, layout: Layout, shapes: Any) -> None:
    """Checks a model, given by its complete config and the shapes of its parameters. Errors: UserError with everything that cannot be."""
    mesh, problems = layout.mesh, []
    tensor = mesh.shape.get(TENSOR, 1)
    for path, kw in _heads(config.model.to_dict(), "model"):
        for field, name in (("num_heads", "heads"), ("num_kv_heads", "kv_heads")):
            size = kw.get(field) or kw["num_heads"]
            if TENSOR in layout.logical[name].split() and size % tensor:
                fits = [n for n in range(1, mesh.size + 1) if size % n == 0 and mesh.size % n == 0]
                way = f"--config.mesh.logical.{name}='' keeps them whole on every device"
                problems.append(f"{path}.{field}: {size} heads cannot be shared by mesh.tensor={tensor}; it can be one of {fits}, or {way}")
    if mesh.shape.get(TIME, 1) > 1 and (found := layout.in_time(shapes)):
        problems.append(
            f"mesh.context={mesh.shape[TIME]} shares every row in time, and {found[0]} and {len(found) - 1} more belong to a recurrence, "
            "which reads one token after the other: give its devices to mesh.data or mesh.fsdp"
        )
    if config.parallel == "pmap" and jax.process_count() > 1:
        problems.append('parallel="pmap" is for the devices of one process here, and there are several: use "jit"')
    if problems:
        raise UserError("\n".join([f"mesh ({meshes.describe(mesh)}):", *(f"  - {problem}" for problem in problems)]))


def _heads(plugin: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields (path, settings) of every part of a model that has attention heads."""
    kw = plugin.get("kw") or {}
    if "num_heads" in kw:
        yield f"{path}.kw", kw
    for name, value in kw.items():
        if isinstance(value, Mapping) and "name" in value:
            yield from _heads(value, f"{path}.kw.{name}")
