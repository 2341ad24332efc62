"""Rotary positions in config.json: `rope_theta` and `rope_scaling`, or `rope_parameters` since version 5, and ours."""

import math
from collections.abc import Mapping

from decoder_lab.core.errors import unknown
from decoder_lab.interop.family_base import Unsupported

# their rope_type -> (ours, {their setting: our setting}); what else they have must be at its default
TYPES = {
    "default": (None, {}),
    "linear": ("linear", {"factor": "factor"}),
    "llama3": (
        "llama3",
        {
            "factor": "factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
            "original_max_position_embeddings": "original_max_length",
        },
    ),
    "yarn": (
        "yarn",
        {
            "factor": "factor",
            "original_max_position_embeddings": "original_max_length",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
        },
    ),
}
NAMES = ("rope_type", "type", "rope_theta")


def read(config: Mapping, theta: float = 10000.0) -> dict:
    """Returns our fields rope_theta and rope_scaling. Errors: UserError for a scaling that the lab does not have."""
    return of(config.get("rope_parameters") or config.get("rope_scaling") or {}, config.get("rope_theta", theta), config)


def of(parameters: Mapping, theta: float, config: Mapping) -> dict:
    """Returns our fields for one set of their parameters."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in TYPES:
        raise Unsupported(unknown("config.json: rope_type", str(kind), TYPES))
    ours, settings = TYPES[kind]
    given = {key: value for key, value in parameters.items() if key not in NAMES and value is not None}
    if kind in ("yarn", "llama3"):
        given.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    if kind == "yarn" and "factor" not in given:
        raise Unsupported('config.json: rope scaling of type "yarn" has no factor: write by how much the context was made longer.')
    if kind == "yarn" and _usual_attention_factor(given):
        given.pop("attention_factor", None)
    share = given.pop("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    strange = sorted(given.keys() - settings.keys())  # of "default" too: a scaling that does not name its type is one that somebody meant
    if strange or share != 1.0:
        named = ", ".join([*strange, *(["partial_rotary_factor"] if share != 1.0 else [])])
        raise Unsupported(f'config.json: rope scaling of type "{kind}" has {named}, which this program does not know.')
    scaling = {"type": ours, **{settings[key]: value for key, value in given.items()}} if ours else None
    return {"rope_theta": float(parameters.get("rope_theta", theta)), "rope_scaling": scaling}


def _usual_attention_factor(given: Mapping) -> bool:
    """Whether what YaRN multiplies sine and cosine by is the paper's 0.1 ln(factor) + 1, as ours always is."""
    factor = given.get("attention_factor")
    return factor is None or math.isclose(factor, 0.1 * math.log(given["factor"]) + 1.0, rel_tol=1e-6)


def write(kw: Mapping) -> dict:
    """Returns their settings in the older form, which every version of transformers reads."""
    return {"rope_theta": kw["rope_theta"], "rope_scaling": scaling(kw["rope_scaling"])}


def scaling(ours: Mapping | None) -> dict | None:
    """Returns their scaling for ours; a type that they lack keeps our name, so that reading it again shows the difference."""
    if not ours:
        return None
    kind = next((theirs for theirs, (name, _) in TYPES.items() if name == ours["type"]), ours["type"])
    names = {our_name: theirs for theirs, our_name in TYPES.get(kind, (None, {}))[1].items()}
    return {"rope_type": kind, **{names.get(key, key): value for key, value in ours.items() if key != "type"}}
