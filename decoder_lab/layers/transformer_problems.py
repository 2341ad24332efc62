"""What can be wrong with the settings of a Transformer, encoder or decoder. Needs no JAX: configs are checked before it is imported."""

from collections.abc import Mapping
from typing import Any

SIZES = ("num_layers", "num_heads", "num_kv_heads", "head_dim", "width", "mlp_dim", "window", "num_positions")
FUSED = ("xla", "cudnn", "splash")  # implementations of attention that know only some of what there is


def problems(kw: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the fields that both have, taken together, one sentence each."""
    if found := [f"{name} must be at least 1, got {kw[name]}" for name in SIZES if kw[name] is not None and kw[name] < 1]:
        return found
    heads, kv_heads, width, experts = kw["num_heads"], kw["num_kv_heads"], kw["width"], kw["num_experts"]
    if kw["head_dim"] is None and width % heads:
        near = [d for d in range(max(1, heads - 4), heads + 5) if width % d == 0]
        found.append(f"width {width} is not divisible by num_heads {heads}: set head_dim, or num_heads to one of {near}")
    if kv_heads is not None and heads % kv_heads:
        found.append(f"num_heads {heads} is not divisible by num_kv_heads {kv_heads}")
    if kw["position"] == "rotary" and (kw["head_dim"] or width // heads) % 2:
        found.append(f'position="rotary" needs an even head_dim, got {kw["head_dim"] or width // heads}')
    if kw["position"] in ("sinusoidal", "sinusoidal_paper") and width % 2:
        found.append(f'position="{kw["position"]}" needs an even width, got {width}')
    if kw["rope_scaling"] and kw["position"] != "rotary":
        found.append(f'rope_scaling needs position="rotary", got "{kw["position"]}"')
    for name in ("dropout", "attention_dropout"):
        if not 0 <= kw[name] < 1:
            found.append(f"{name} must be at least 0 and below 1, got {kw[name]}")
    for name in ("attention_softcap", "expert_capacity"):
        if kw[name] is not None and kw[name] <= 0:
            found.append(f"{name} must be above 0 (None: no limit), got {kw[name]}")
    if experts and not 1 <= kw["experts_per_token"] <= experts:
        found.append(f"experts_per_token must be from 1 to num_experts {experts}, got {kw['experts_per_token']}")
    return found + _of_attention(kw)


def of_decoder(kw: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the fields of a decoder taken together, one sentence each."""
    found = problems(kw)
    if kw["global_layers"]:
        if kw["window"] is None:
            found.append("global_layers are those without the window: set window, or leave them empty")
        if not all(0 <= i < kw["num_layers"] for i in kw["global_layers"]):
            found.append(f"global_layers must be numbers from 0 to {kw['num_layers'] - 1}, got {kw['global_layers']}")
    if kw["local_rope_theta"] is not None and (kw["position"] != "rotary" or kw["window"] is None):
        found.append('local_rope_theta is for layers with a window and position="rotary"')
    if kw["cross_window"] is not None and kw["cross_window"] < 1:
        found.append(f"cross_window must be at least 1, got {kw['cross_window']}")
    if kw["cross_predict_centre"] and kw["cross_window"] is None:
        found.append("cross_predict_centre moves a window: set cross_window too")
    scaling = dict(kw["rope_scaling"] or {})
    if scaling:
        needed = {
            "linear": ["factor"],
            "ntk": ["factor"],
            "yarn": ["factor", "original_max_length"],
            "llama3": ["factor", "original_max_length"],
        }
        if scaling.get("type") not in needed:
            found.append(f"rope_scaling: type must be one of {', '.join(needed)}, got {scaling.get('type')!r}")
        else:
            missing = [k for k in needed[scaling["type"]] if k not in scaling]
            if missing:
                found.append(f'rope_scaling of type "{scaling["type"]}" also needs {", ".join(missing)}')
    if kw["logits_softcap"] is not None and kw["logits_softcap"] <= 0:
        found.append(f"logits_softcap must be above 0 (None: no limit), got {kw['logits_softcap']}")
    return found


def of_no_source(kw: Mapping[str, Any], inside: str = "") -> list[str]:
    """Returns which fields of a decoder, each named with `inside` before it, say how to read a source where there is none."""
    asked = [name for name in ("cross_window", "cross_predict_centre") if kw.get(name)]
    return [f"{inside}{name} is about a source, and this model reads none: leave it out, or use window" for name in asked]


def _of_attention(kw: Mapping[str, Any]) -> list[str]:
    found, name = [], kw["attention"]
    if name in FUSED:
        if kw["attention_dropout"] or (kw["attention_softcap"] is not None and name != "splash"):
            found.append(f'attention="{name}" has no dropout of weights, and only splash a soft cap: use attention="auto"')
        if kw["score"] != "scaled_dot":
            found.append(f'attention="{name}" knows no score but the scaled dot product: use attention="auto"')
    if kw["score"] != "scaled_dot" and kw["attention_scale"] is not None:
        found.append(f'attention_scale is for score="scaled_dot", got "{kw["score"]}"')
    return found
