"""Where the source of a module lies, found by its dotted name without importing anything."""

import importlib.util
import pathlib
from typing import Any

from decoder_lab.core.errors import nearest


def source_of(name: str, folder: pathlib.Path | None = None) -> pathlib.Path | None:
    """Returns the source of a module, of which not even the parent packages are imported; `folder` is where a relative name begins."""
    first, *rest = name.split(".")
    if folder is not None:
        starts = [folder / first]
    else:
        spec = _spec(first)
        if spec is None:
            return None
        starts = [pathlib.Path(p) for p in spec.submodule_search_locations or ()]
        starts = starts or ([pathlib.Path(spec.origin).with_suffix("")] if spec.has_location else [])
    for start in starts:
        place = start.joinpath(*rest)
        for file in (place.with_name(place.name + ".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def neighbour(name: str) -> str:
    """Returns the hint at the nearest module of the same folder, where there is such a folder."""
    folder, _, last = name.rpartition(".")
    first, *rest = folder.split(".")
    spec = _spec(first)
    places = [pathlib.Path(start).joinpath(*rest) for start in (spec.submodule_search_locations or () if spec else ())]
    beside = [path.stem for place in places for path in sorted(place.glob("*.py"))]
    return nearest(f"{folder}.{last}", [f"{folder}.{stem}" for stem in beside]) if nearest(last, beside) else ""


def _spec(first: str) -> Any:
    """Returns where a top-level module or package is found; None: nowhere, or it is a running script (`__main__`), which has no name."""
    try:
        return importlib.util.find_spec(first) if first else None
    except ValueError:
        return None
