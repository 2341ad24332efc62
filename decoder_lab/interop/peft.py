"""Adapters in PEFT's own format, both ways: `adapter_config.json` and `adapter_model.safetensors` (peft 0.9 and later).

LoRA, DoRA and AdaLoRA are products: their A [r, in] and B [out, r] are our two narrow matrices transposed, E [r, 1] is AdaLoRA's lambda. A
matrix that holds several of ours side by side (GPT-2's c_attn) is written with the sum of their ranks: then B is zero where a part reads
nothing of another's A. IA3's vectors are [out, 1], or [1, in] of what PEFT calls feed-forward. Layers of the model itself that were trained
whole, such as a head, are its `modules_to_save`.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.interop import safetensors
from decoder_lab.interop.safetensors import Lazy
from decoder_lab.interop.table import CONV1D, FUSED_CONV1D, Rule

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# method -> {our leaf: (its role, their ending)}
LEAVES = {
    "lora": {"lora_a": ("a", ".lora_A.weight"), "lora_b": ("b", ".lora_B.weight")},
    "adalora": {"lora_p": ("a", ".lora_A"), "lora_lambda": ("e", ".lora_E"), "lora_q": ("b", ".lora_B")},
    "ia3": {"ia3_output": ("out", ".ia3_l"), "ia3_input": ("in", ".ia3_l")},
}
LEAVES["dora"] = LEAVES["lora"] | {"lora_magnitude": ("m", ".lora_magnitude_vector")}
TYPES = {"lora": "LORA", "dora": "LORA", "adalora": "ADALORA", "ia3": "IA3"}
UNTRANSPOSED = (CONV1D["weight"][1], FUSED_CONV1D["weight"][1])  # their matrices are [in, out], "fan in, fan out"
TASKS = {"decoder_only": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "tagger": "TOKEN_CLS", "span_extractor": "QUESTION_ANS"}

Parts = dict[str, np.ndarray]  # by role


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the parameters of a model lie on their side: {their tensor: rule}; {our path: array or shape}, layers one by one; which of
    their tensors are tied to another; our model's name."""

    rules: Mapping[str, Rule]
    shapes: Mapping[str, Any]
    tied: frozenset[str]
    model: str


def write(directory: pathlib.Path, adapter: Any, leaves: Mapping[str, Any], own: Iterable[str], places: Places) -> str:
    """Writes what an adapter added to a model, and what it trained of it; returns a line for the user.

    Args:
      adapter: of a method in LEAVES.
      leaves: {our path: array}, layers one by one.
      own: paths of the model's own parameters that were trained; `places.shapes` holds the arrays of this model.
    Errors: UserError for another method, and for what has no form on their side.
    """
    if adapter.name not in LEAVES:
        raise UserError(f'--format=peft: {", ".join(LEAVES)} have a form there that means the same; this adapter is "{adapter.name}".')
    kernels, rules = _kernels(leaves, adapter.name), places.rules
    made = {}
    for theirs, rule in rules.items():
        if any(path in kernels for path in rule.ours):
            module = theirs.removesuffix(".weight")
            made[module] = _scales(rule, kernels, places) if adapter.name == "ia3" else _product(rule, kernels, places)
    placed = {path for rule in rules.values() for path in rule.ours}
    if lost := sorted(set(kernels) - placed):
        raise UserError(f"--format=peft: these adapted kernels have no place in that family: {', '.join(lost)}.")
    if adapter.name == "adalora":
        made = {module: _padded(parts, max(len(each["e"]) for each in made.values())) for module, parts in made.items()}
    saved = _saved(own, places, made)
    endings = dict(LEAVES[adapter.name].values())
    tensors = {PREFIX + module + endings[role]: Lazy.of(array) for module, parts in made.items() for role, array in parts.items()}
    tensors |= {PREFIX + name: _theirs(rules[name], places) for names in saved.values() for name in names}
    config = dict(
        peft_type=TYPES[adapter.name],
        task_type=TASKS.get(places.model, "SEQ_CLS" if places.model == "classifier" else None),
        base_model_name_or_path=None,
        inference_mode=True,
        modules_to_save=sorted(saved) or None,
        target_modules=sorted(made),
        fan_in_fan_out=any(rules[f"{module}.weight"].how in UNTRANSPOSED for module in made),
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(config | _settings(adapter, made), indent=2) + "\n")
    safetensors.write(directory / TENSORS, tensors)
    return f"{len(made)} adapted modules" + (f", and {', '.join(sorted(saved))} whole" if saved else "")


def _settings(adapter: Any, made: Mapping[str, Parts]) -> dict[str, Any]:
    """Returns what adapter_config.json says of the method."""
    if adapter.name == "ia3":
        return dict(feedforward_modules=sorted(module for module, parts in made.items() if "in" in parts), init_ia3_weights=True)
    ranks = {module: parts["a"].shape[0] for module, parts in made.items()}
    if adapter.name == "adalora":
        (rank,) = set(ranks.values())
        schedule = dict(tinit=0, tfinal=0, deltaT=1, total_step=1)  # over: what is written has its ranks
        smoothing = dict(beta1=adapter.beta1, beta2=adapter.beta2, orth_reg_weight=adapter.orthogonality)
        ranks = dict(init_r=rank, target_r=adapter.target_rank, lora_alpha=adapter.scale * rank, rank_pattern=None)
        return ranks | schedule | smoothing | dict(lora_dropout=adapter.dropout, bias="none")
    stabilised = getattr(adapter, "rank_stabilised", False)
    other = {module: rank for module, rank in ranks.items() if rank != adapter.rank}
    return dict(
        bias="none",
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=stabilised,
        use_dora=adapter.name == "dora",
        rank_pattern=other,
        alpha_pattern={module: adapter.scale * (math.sqrt(rank) if stabilised else rank) for module, rank in other.items()},
    )


def _kernels(leaves: Mapping[str, Any], method: str) -> dict[str, Parts]:
    """Returns {path of a kernel: its parts}."""
    found: dict[str, Parts] = {}
    for path, leaf in leaves.items():
        module, _, name = path.rpartition("/")
        if name not in LEAVES[method]:
            raise UserError(f"--format=peft: {path} is beside no linear layer, which is all that PEFT adapts: merge and export instead.")
        found.setdefault(f"{module}/kernel", {})[LEAVES[method][name][0]] = np.asarray(leaf, np.float32)
    return found


def _product(rule: Rule, kernels: Mapping[str, Parts], places: Places) -> Parts:
    """Returns their A, B and, where ours have such, E and magnitude, of one of ours or of several side by side."""
    parts, widths = [kernels.get(path, {}) for path in rule.ours], [places.shapes[path].shape[-1] for path in rule.ours]
    there = [part for part in parts if part]
    b = np.zeros((sum(widths), sum(part["a"].shape[-1] for part in there)), np.float32)
    row = column = 0
    for part, width in zip(parts, widths, strict=True):
        if part:
            rank = part["b"].shape[0]
            b[row : row + width, column : column + rank] = part["b"].T
            column += rank
        row += width
    found = {"a": np.concatenate([part["a"].T for part in there]), "b": b}
    if "e" in there[0]:
        found["e"] = np.concatenate([part["e"] for part in there])[:, None]
    if "m" in there[0]:  # columns that nobody adapted keep their length
        lengths = [np.linalg.norm(np.asarray(places.shapes[path], np.float32), axis=0) for path in rule.ours]
        found["m"] = np.concatenate([part.get("m", length) for part, length in zip(parts, lengths, strict=True)])
    return found


def _scales(rule: Rule, kernels: Mapping[str, Parts], places: Places) -> Parts:
    """Returns the one vector of a module, of outputs or of inputs."""
    parts = [kernels.get(path, {}) for path in rule.ours]
    if all("in" not in part for part in parts):
        whole = [part.get("out", np.ones(places.shapes[path].shape[-1:])) for part, path in zip(parts, rule.ours, strict=True)]
        return {"out": np.concatenate(whole)[:, None].astype(np.float32)}
    if len(parts) > 1 or "out" in parts[0]:
        raise UserError(f"--format=peft: vectors of {rule.ours[0]}'s inputs and of its outputs have no form together: merge and export.")
    return {"in": parts[0]["in"][None]}


def _padded(parts: Parts, rank: int) -> Parts:
    """Returns the parts of a product with as many ranks, those behind its own zero."""
    more = rank - parts["a"].shape[0]
    return {role: np.pad(x, ((0, 0), (0, more)) if role == "b" else ((0, more), (0, 0))) for role, x in parts.items()}


def _saved(own: Iterable[str], places: Places, adapted: Iterable[str]) -> dict[str, list[str]]:
    """Returns {their module: its tensors} of what was trained of the model itself. Errors: UserError for what is no module of its own."""
    own, found = set(own), {}
    for name in [name for name, rule in places.rules.items() if own & set(rule.ours)]:
        if places.rules[name].entry is not None:
            raise UserError(f"--format=peft: {name} was trained and is one of several that lie in one array here: merge and export.")
        module = name.rpartition(".")[0]
        inside = [other for other in places.rules if other.startswith(f"{module}.")]
        if module in adapted or not module or any("." in other.removeprefix(f"{module}.") for other in inside):
            raise UserError(f"--format=peft: {name} was trained and is no layer of its own there that is saved whole: merge and export.")
        if tied := sorted(places.tied & set(inside)):
            raise UserError(f"--format=peft: {tied[0]} was trained and is tied to another there, which PEFT would undo: merge and export.")
        found[module] = inside
    return found


def _theirs(rule: Rule, places: Places) -> Lazy:
    return Lazy.of(np.ascontiguousarray(rule.how.save([np.asarray(places.shapes[path], np.float32) for path in rule.ours])))


def read(
    directory: pathlib.Path, adapter: Any, wanted: Mapping[str, Any], own: Iterable[str], places: Places
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns ({our path: array} of all that an adapter adds, and of what it trains of the model itself as far as the file has it; the
    layers of the latter).

    wanted: {path: array or shape} of what it adds, layers one by one; own: paths of the model's own parameters that are trained.
    Errors: UserError, listing both sides, for settings that differ, for modules that are missing or not known, and for other shapes.
    """
    config = json.loads(_file(directory, CONFIG).read_text())
    if adapter.name not in LEAVES:
        raise UserError(f"init_from.adapter: {adapter.name} is none of those that PEFT's format is read for: {', '.join(LEAVES)}.")
    _check(directory, config, adapter)
    file = {name.removeprefix(PREFIX): array for name, array in safetensors.read(_file(directory, TENSORS)).items()}
    roles = {role: (leaf, ending) for leaf, (role, ending) in LEAVES[adapter.name].items()}
    found, known, problems, own, saved = {}, set(), [], set(own), []
    for theirs, rule in places.rules.items():
        module = theirs.removesuffix(".weight")
        parts = {role: file[module + ending] for role, (_, ending) in roles.items() if module + ending in file}
        targets = {path for path in rule.ours if any(path.removesuffix("kernel") + leaf in wanted for leaf, _ in roles.values())}
        if parts and targets:
            known |= {module + roles[role][1] for role in parts}
            split = _split_scales if adapter.name == "ia3" else _split_product
            arrays = {role: np.asarray(array, np.float32) for role, array in parts.items()}
            for path, role, array in split(rule, arrays, targets, places, adapter, problems):
                found[path.removesuffix("kernel") + roles[role][0]] = array
            if adapter.name != "ia3":
                problems += _wrong_scale(config, module, parts["a"].shape[0], adapter)
        elif theirs in file and rule.entry is not None:
            problems.append(f"{theirs} was trained there and is one of several that lie in one array here: merge it there first")
            known.add(theirs)
        elif theirs in file:
            known.add(theirs)
            problems += [] if set(rule.ours) <= own else [f"{theirs} was trained there; name it in adapt.kw.also_train"]
            saved.append(theirs)
            array, sizes = np.asarray(file[theirs], np.float32), [tuple(places.shapes[path].shape) for path in rule.ours]
            found |= {path: rule.how.load(array, number, sizes) for number, path in enumerate(rule.ours)}
    problems += [f"missing: {path} {list(x.shape)}" for path, x in wanted.items() if path not in found]
    problems += [f"not known, or not a target here: {name} {list(file[name].shape)}" for name in file if name not in known]
    for path, array in found.items():
        expected = tuple((wanted if path in wanted else places.shapes)[path].shape) if path in wanted or path in places.shapes else None
        if array.shape != expected:
            problems.append(f"{path} has shape {list(array.shape)} there, {list(expected or ()) or 'no such leaf'} here")
    if problems:
        listing = "\n".join(f"  {line}" for line in problems)
        raise UserError(f"init_from.adapter: {directory} does not fit this run's adapter:\n{listing}")
    return found, saved


def _split_product(rule: Rule, file: Parts, targets: set[str], places: Places, adapter: Any, problems: list[str]) -> list[tuple]:
    """Returns [(path of ours, role, array)] of a module's product."""
    found, row, block = [], 0, 0
    for path in rule.ours:
        rows = slice(row, row + places.shapes[path].shape[-1])
        row = rows.stop
        a, b, e = file["a"], file["b"][rows], file.get("e")
        if path not in targets:
            if np.any(b):
                problems.append(f"{path} is changed there and is no target here: name it in adapt.kw.targets")
            continue
        mine = slice(block * adapter.rank, (block + 1) * adapter.rank)
        if a.shape[0] > adapter.rank and mine.stop <= a.shape[0] and not np.any(np.delete(b * (1.0 if e is None else e.T), mine, axis=1)):
            a, b, e = a[mine], b[:, mine], None if e is None else e[mine]  # it reads nothing of the ranks of its neighbours
        parts = {"a": a, "b": b} | ({} if e is None else {"e": e})
        if e is not None and a.shape[0] < adapter.rank:  # ranks that were pruned
            parts = _padded(parts, adapter.rank)
        found += [(path, "a", parts["a"].T), (path, "b", parts["b"].T)]
        found += [(path, "e", parts["e"].reshape(-1))] if e is not None else []
        found += [(path, "m", file["m"].reshape(-1)[rows])] if "m" in file else []
        block += 1
    return found


def _split_scales(rule: Rule, file: Parts, targets: set[str], places: Places, adapter: Any, problems: list[str]) -> list[tuple]:
    """Returns [(path of ours, role, array)] of a module's vector."""
    del adapter
    vector = next(iter(file.values()))  # both roles have the same name there
    if vector.shape[0] == 1 and vector.shape[1] > 1:
        return [(path, "in", vector[0]) for path in rule.ours if path in targets]
    found, row = [], 0
    for path in rule.ours:
        rows = slice(row, row + places.shapes[path].shape[-1])
        row = rows.stop
        if path in targets:
            found.append((path, "out", vector[rows, 0]))
        elif np.any(vector[rows] != 1):
            problems.append(f"{path} is scaled there and is no target here: name it in adapt.kw.outputs")
    return found


def _wrong_scale(config: Mapping[str, Any], module: str, rank: int, adapter: Any) -> list[str]:
    """Returns what is wrong with how often a module's product counts."""
    if config["peft_type"] == "ADALORA":
        return []  # one number for all, which `_check` compares
    matching = [value for key, value in (config.get("alpha_pattern") or {}).items() if re.fullmatch(rf"(.*\.)?{key}", module)]
    alpha = matching[0] if matching else config["lora_alpha"]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if math.isclose(scale, adapter.scale, rel_tol=1e-5):
        return []
    return [f"the product of {module} counts {scale:g} times there, {adapter.scale:g} times here (alpha and rank)"]


def _check(directory: pathlib.Path, config: Mapping[str, Any], adapter: Any) -> None:
    """Errors: UserError that says how `adapt` must be set for what the directory holds."""
    kind = config.get("peft_type")
    if kind not in TYPES.values():
        raise UserError(f'init_from.adapter: {directory} holds "{kind}", expected one of {", ".join(sorted(set(TYPES.values())))}.')
    if config.get("bias", "none") != "none":
        raise UserError(f'init_from.adapter: {directory} trained biases too (bias="{config["bias"]}"), which has no form here.')
    if kind == "IA3":
        theirs, ours = dict(name="ia3"), dict(name=adapter.name)
    elif kind == "ADALORA":
        theirs = dict(name="adalora", rank=config["init_r"], alpha=float(config["lora_alpha"]))
        ours = dict(name=adapter.name, rank=getattr(adapter, "rank", None), alpha=float(getattr(adapter, "alpha", 0)))
        if adapter.name == "adalora" and math.isclose(theirs["alpha"] / theirs["rank"], adapter.scale) and adapter.rank <= theirs["rank"]:
            return  # as `write` does with matrices of several parts; whether the ranks fit is found where they are cut
    else:
        theirs, ours = _of_lora(config), _ours(adapter)
        if ours in theirs:
            return
        theirs = theirs[-1]
    if ours != theirs:
        lines = [f"  adapt {key}: got {ours.get(key)!r}, expected {theirs[key]!r}" for key in theirs if ours.get(key) != theirs[key]]
        raise UserError("\n".join([f"init_from.adapter: {directory} was trained with other settings:", *lines]))


def _ours(adapter: Any) -> dict[str, Any]:
    names = dict(rank=None, alpha=None, rank_stabilised=False)
    found = {name: getattr(adapter, name, default) for name, default in names.items()}
    return dict(name=adapter.name) | found | (dict(alpha=float(found["alpha"])) if found["alpha"] is not None else {})


def _of_lora(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the settings for which a directory of LoRA or DoRA fits: those it names, and those of its modules where all have the same."""
    said = dict(name="dora" if config.get("use_dora") else "lora", rank=config["r"], alpha=float(config["lora_alpha"]))
    said["rank_stabilised"] = bool(config.get("use_rslora"))
    ranks = set((config.get("rank_pattern") or {}).values())
    if len(ranks) != 1:
        return [said]
    (alpha,) = set((config.get("alpha_pattern") or {}).values()) or {said["alpha"]}
    return [said, said | dict(rank=ranks.pop(), alpha=float(alpha))]


def _file(directory: pathlib.Path, name: str) -> pathlib.Path:
    if not (directory / name).is_file():
        raise UserError(f"init_from.adapter: {directory} has no {name}; expected a directory that PEFT wrote.")
    return directory / name
