"""Models as data, in a form in which two that compute the same are equal.

A plug-in `dict(name, kw)` leaves out defaults, has presets and fields that follow from others. Here all of that is written out, and what
does not change what a trained model computes (how it is compiled, how it was initialised, dropout) is taken away.
"""

import math
import types
from collections.abc import Mapping
from typing import Any

from decoder_lab.core import lookup, signatures
from decoder_lab.layers import transformer_parts as parts
from decoder_lab.ops import rotary

# fields that do not change what given parameters compute
FREE = (
    "variant", "scan_layers", "remat", "attention", "init_stddev", "embedding_stddev", "dropout", "attention_dropout",
    "character_dropout", "expert_capacity", "expert_balance", "expert_z",
)  # fmt: skip
TRANSFORMERS = (("model", "decoder_only"), ("encoder", "transformer"), ("decoder", "transformer"))


def completed(kind: str, plugin: Any) -> dict:
    """Returns `dict(name, kw)` with every field written out, presets and nested plug-ins too."""
    name, kw = lookup.part(plugin)
    kw = {**lookup.variants(kind, name).get(kw.get("variant"), {}), **kw}
    full = {}
    for key, field in lookup.fields(kind, name).items():
        value = kw.get(key, None if field.default is signatures.UNREADABLE else field.default)
        full[key] = completed(field.plugin, value) if field.plugin and value is not None else value
    return dict(name=name, kw=full)


def explicit(kind: str, plugin: Any, num_positions: int | None = None) -> dict:
    """Returns the plug-in completed, with what follows from other fields written out too.

    num_positions: rows of a learned table of positions where the plug-in does not say (the run's sequence_length).
    """
    made = completed(kind, plugin)
    kw = dict(made["kw"])
    for key, field in lookup.fields(kind, made["name"]).items():
        if field.plugin and kw[key] is not None:
            kw[key] = explicit(field.plugin, kw[key], num_positions)
    return dict(name=made["name"], kw=_transformer(kw, num_positions) if (kind, made["name"]) in TRANSFORMERS else kw)


def canonical(kind: str, plugin: Any, num_positions: int | None = None) -> dict:
    """Returns the plug-in as `explicit` does, without its free fields."""
    return _bound(explicit(kind, plugin, num_positions))


def _bound(made: dict) -> dict:
    kw = {key: value for key, value in made["kw"].items() if key not in FREE}
    return dict(name=made["name"], kw={key: _bound(v) if isinstance(v, dict) and "kw" in v else v for key, v in kw.items()})


def _transformer(kw: dict, num_positions: int | None) -> dict:
    """Returns the fields of a Transformer with their defaults worked out; fields that do nothing beside the others get their default."""
    fields = types.SimpleNamespace(**kw)
    kw = {**kw, "head_dim": parts.head_dim(fields), "mlp_dim": parts.mlp_dim(fields)}
    kw["num_kv_heads"] = kw["num_kv_heads"] or kw["num_heads"]
    for name in ("qkv_bias", "out_bias"):
        kw[name] = kw["use_bias"] if kw[name] is None else kw[name]
    if kw["attention_scale"] is None:
        kw["attention_scale"] = kw["head_dim"] ** -0.5
    kw["num_positions"] = (kw["num_positions"] or num_positions) if kw["position"] == "learned" else None
    kw["rope_scaling"] = rotary.check_scaling(kw["rope_scaling"] or {}) or None
    if kw["position"] != "rotary":
        kw |= {"rope_theta": 10000.0, "rope_scaling": None}
    if "global_layers" in kw:
        kw["global_layers"] = tuple(sorted(kw["global_layers"]))
        if kw["global_layers"] == tuple(range(kw["num_layers"])):
            kw |= {"window": None, "global_layers": ()}
        if kw["window"] is None or (kw["local_rope_theta"] == kw["rope_theta"] and kw["rope_scaling"] is None):
            kw["local_rope_theta"] = None
    return kw


def differences(got: Mapping, expected: Mapping, path: str = "model") -> list[str]:
    """Returns one line for each setting in which two canonical plug-ins differ: what it is, and what it should be."""
    if got["name"] != expected["name"]:
        return [f'{path}.name: got "{got["name"]}", expected "{expected["name"]}"']
    lines = []
    for key in got["kw"]:
        one, other, where = got["kw"][key], expected["kw"][key], f"{path}.kw.{key}"
        if isinstance(one, Mapping) and isinstance(other, Mapping) and "kw" in one:
            lines += differences(one, other, where)
        elif not _same(one, other):
            lines.append(f"{where}: got {one!r}, expected {other!r}")
    return lines


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other
