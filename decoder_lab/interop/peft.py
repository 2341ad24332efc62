"""LoRA and DoRA in PEFT's own format, both ways: `adapter_config.json` and `adapter_model.safetensors` (peft 0.9 and later).

Their `lora_A.weight` [r, in] and `lora_B.weight` [out, r] are our lora_a and lora_b transposed. A matrix that holds several of ours side by
side (GPT-2's c_attn) is written with the sum of their ranks: then B is zero where a part reads nothing of another's A.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.interop import safetensors
from decoder_lab.interop.safetensors import Lazy
from decoder_lab.interop.table import CONV1D, FUSED_CONV1D, Rule

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
PARTS = {"lora_a": A, "lora_b": B, "lora_magnitude": MAGNITUDE}
UNTRANSPOSED = (CONV1D["weight"][1], FUSED_CONV1D["weight"][1])  # their matrices are [in, out], "fan in, fan out"
TASKS = {"decoder_only": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "tagger": "TOKEN_CLS", "span_extractor": "QUESTION_ANS"}


def write(
    directory: pathlib.Path, adapter: Any, leaves: Mapping[str, Any], rules: Mapping[str, Rule], shapes: Mapping[str, Any], model: str
) -> str:
    """Writes what an adapter added to a model; returns a line for the user.

    Args:
      adapter: of method lora or dora.
      leaves: {our path: array}, layers one by one.
      rules: {their tensor: where it lies in ours}, of the model that it was added to.
      shapes: {our path: array or shape} of that model.
      model: our model's name.
    Errors: UserError for another method, and for kernels that have no place of their own on their side.
    """
    if adapter.name not in ("lora", "dora"):
        raise UserError(f'--format=peft: only lora and dora have a form there that means the same; this adapter is "{adapter.name}".')
    if getattr(adapter, "rank_stabilised", False) and any(len(rule.ours) > 1 for rule in rules.values()):
        raise UserError("--format=peft: rank_stabilised of matrices that lie side by side there has no form: merge and export instead.")
    kernels = _kernels(leaves)
    tensors, ranks = {}, {}
    for theirs, rule in rules.items():
        if any(path in kernels for path in rule.ours):
            module = theirs.removesuffix(".weight")
            made = _fused(rule, kernels, shapes, adapter.name) if len(rule.ours) > 1 else _single(kernels[rule.ours[0]])
            tensors |= {PREFIX + module + name: Lazy.of(array) for name, array in made.items()}
            ranks[module] = made[A].shape[0]
    placed = {path for rule in rules.values() for path in rule.ours}
    if lost := sorted(set(kernels) - placed):
        raise UserError(f"--format=peft: these adapted kernels have no place in that family: {', '.join(lost)}.")
    other = {module: rank for module, rank in ranks.items() if rank != adapter.rank}
    config = dict(
        peft_type="LORA",
        task_type=TASKS.get(model, "SEQ_CLS" if model == "classifier" else None),
        base_model_name_or_path=None,
        inference_mode=True,
        bias="none",
        modules_to_save=None,
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=getattr(adapter, "rank_stabilised", False),
        use_dora=adapter.name == "dora",
        fan_in_fan_out=any(rules[f"{module}.weight"].how in UNTRANSPOSED for module in ranks),
        target_modules=sorted(ranks),
        rank_pattern=other,
        alpha_pattern={module: adapter.alpha * rank / adapter.rank for module, rank in other.items()},
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    safetensors.write(directory / TENSORS, tensors)
    return f"{len(ranks)} adapted modules of rank {', '.join(map(str, sorted(set(ranks.values()))))}"


def read(directory: pathlib.Path, adapter: Any, wanted: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, np.ndarray]:
    """Returns {our path: array} of what an adapter adds, `wanted` {path: array or shape}, layers one by one.

    Errors: UserError, listing both sides, for settings that differ, for modules that are missing or not known, and for other shapes.
    """
    config = json.loads(_file(directory, CONFIG).read_text())
    _check(directory, config, adapter)
    file = {name.removeprefix(PREFIX): array for name, array in safetensors.read(_file(directory, TENSORS)).items()}
    found, known = {}, set()
    for theirs, rule in rules.items():
        module, at = theirs.removesuffix(".weight"), 0
        for path in rule.ours:
            names = {leaf: path.removesuffix("kernel") + leaf for leaf in PARTS}
            width = wanted[names["lora_b"]].shape[-1] if names["lora_b"] in wanted else 0
            for leaf, name in PARTS.items():
                if names[leaf] in wanted and module + name in file:
                    array = np.asarray(file[module + name], np.float32)
                    array = array.reshape(-1) if leaf == "lora_magnitude" else array
                    found[names[leaf]] = (array if leaf == "lora_a" or len(rule.ours) == 1 else array[at : at + width]).T
                    known.add(module + name)
            at += width
    problems = [f"missing: {path} {list(x.shape)}" for path, x in wanted.items() if path not in found]
    problems += [f"not known, or not a target here: {name} {list(file[name].shape)}" for name in file if name not in known]
    for path, array in found.items():
        if array.shape != wanted[path].shape:
            problems.append(f"{path} has shape {list(array.shape)} there, {list(wanted[path].shape)} here")
    if problems:
        listing = "\n".join(f"  {line}" for line in problems)
        raise UserError(f"init_from.adapter: {directory} does not fit this run's adapter:\n{listing}")
    return found


def _kernels(leaves: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Returns {path of a kernel: {part: array}}."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in leaves.items():
        module, _, name = path.rpartition("/")
        if name not in PARTS:
            raise UserError(f"--format=peft: {path} is beside no linear layer, which is all that PEFT adapts: merge and export instead.")
        found.setdefault(f"{module}/kernel", {})[name] = np.asarray(leaf, np.float32)
    return found


def _single(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {PARTS[name]: np.ascontiguousarray(array.T) for name, array in parts.items()}


def _fused(rule: Rule, kernels: Mapping[str, dict], shapes: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Returns one A and one B of several of ours side by side."""
    if name == "dora":
        raise UserError(f"--format=peft: dora of {', '.join(rule.ours)}, one matrix there, has no form: merge and export instead.")
    widths = [shapes[path].shape[-1] for path in rule.ours]
    parts = [kernels.get(path) for path in rule.ours]
    b = np.zeros((sum(widths), sum(part["lora_a"].shape[-1] for part in parts if part)), np.float32)
    row = column = 0
    for part, width in zip(parts, widths, strict=True):
        if part:
            rank = part["lora_b"].shape[0]
            b[row : row + width, column : column + rank] = part["lora_b"].T
            column += rank
        row += width
    return {A: np.concatenate([part["lora_a"].T for part in parts if part]), B: b}


def _check(directory: pathlib.Path, config: Mapping[str, Any], adapter: Any) -> None:
    """Errors: UserError that says how `adapt` must be set for what the directory holds."""
    if config.get("peft_type") != "LORA":
        raise UserError(f'init_from.adapter: {directory} holds "{config.get("peft_type")}", expected LORA (lora or dora).')
    theirs = dict(name="dora" if config.get("use_dora") else "lora", rank=config["r"], alpha=float(config["lora_alpha"]))
    theirs["rank_stabilised"] = bool(config.get("use_rslora"))
    ranks = set((config.get("rank_pattern") or {}).values())
    if len(ranks) == 1:  # of all its modules, if this run has that rank
        (rank,) = ranks
        (alpha,) = set((config.get("alpha_pattern") or {}).values()) or {theirs["alpha"]}
        theirs |= dict(rank=rank, alpha=float(alpha))
    ours = dict(name=adapter.name, rank=adapter.rank, alpha=float(adapter.alpha))
    ours["rank_stabilised"] = getattr(adapter, "rank_stabilised", False)
    if ours != theirs:
        lines = [f"  adapt {key}: got {ours[key]!r}, expected {theirs[key]!r}" for key in ours if ours[key] != theirs[key]]
        raise UserError("\n".join([f"init_from.adapter: {directory} was trained with other settings:", *lines]))


def _file(directory: pathlib.Path, name: str) -> pathlib.Path:
    if not (directory / name).is_file():
        raise UserError(f"init_from.adapter: {directory} has no {name}; expected a directory that PEFT wrote.")
    return directory / name
