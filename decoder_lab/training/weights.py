"""Runs from and to directories of Hugging Face: import, export, and what `init_from` takes of one."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from decoder_lab.checkpoint import snapshot
from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core import lookup, tree
from decoder_lab.core.errors import UserError
from decoder_lab.data import build, huggingface_files
from decoder_lab.interop import export, layout, peft, plugin, tokenizer_json
from decoder_lab.interop.directory import Directory, family
from decoder_lab.interop.family_base import Sizes
from decoder_lab.interop.safetensors import Lazy
from decoder_lab.interop.table import rules
from decoder_lab.ops import tag_schemes

TOWER = "target_tower/"
HEAD = "output/"
NEVER = -1e9  # the logit of a token that is never to be written


def is_directory(path: pathlib.Path) -> bool:
    """Whether a folder is a model's directory of Hugging Face, not a run."""
    file = path / "config.json"
    if not file.is_file():
        return False
    try:
        return "model_type" in json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False


def initial(experiment: Any, path: pathlib.Path) -> Any:
    """Returns the parameters of a directory, nested dicts of lazy arrays, for `init_from`.

    Errors: UserError, listing every setting that differs, where this run's model would compute something else with them. Not asked where
    init_from.include names a part.
    """
    directory = Directory(path)
    if tuple(experiment.config.init_from.include) == (".*",) and (lines := _differences(experiment, directory)):
        listing = "\n".join(f"  {line}" for line in lines)
        raise UserError(f"init_from: {path} was made for other settings (got: this config; expected: the weights'):\n{listing}")
    if directory.left_out and not experiment.workdir.joinpath("checkpoints").is_dir():
        experiment.report(f"{path}: left out, as the lab's model has no such part:\n{tree.grouped(directory.left_out)}")
    wanted = tree.flatten(experiment.parameter_shapes)
    stacked_as = {f"{TOWER}{path}" for path in wanted} | wanted.keys()
    taken = directory.params(stacked_as)
    # the encoder of a model of vectors and that of a head have the same parameters in two places
    theirs, ours = (any(path.startswith(TOWER) for path in paths) for paths in (taken, wanted))
    if theirs and not ours:
        taken = {path.removeprefix(TOWER): array for path, array in taken.items()}
    elif ours and not theirs:
        taken = {TOWER + path if path.startswith("encoder/") else path: array for path, array in taken.items()}
    scaled = _in_deviations(experiment, taken)
    return tree.nest({path: array if array is taken[path] else Lazy.of(array) for path, array in scaled.items()})


def _differences(experiment: Any, directory: Directory) -> list[str]:
    ours = plugin.canonical("model", experiment.config.model, experiment.config.sequence_length)
    theirs = plugin.canonical("model", directory.plugin, directory.sizes.num_positions)
    if ours["name"] == theirs["name"] and "encoder" not in theirs["kw"]:
        return plugin.differences(ours, theirs)
    sides = [name for name in ("encoder", "decoder") if name in ours["kw"] and name in theirs["kw"]]
    return [line for name in sides for line in plugin.differences(ours["kw"][name], theirs["kw"][name], f"model.kw.{name}")]


def import_run(experiment: Any, directory: Directory) -> None:
    """Writes the folder of a run whose checkpoint 0 holds the directory's weights; one array is in memory at a time beside the model's.

    Errors: UserError where the folder has checkpoints, the weights do not fit, or tokenizer and table have different sizes.
    """
    if (experiment.workdir / "checkpoints").exists():
        raise UserError(f"{experiment.workdir} has checkpoints already: name another --workdir.")
    _store_facts(experiment, directory)
    shapes = tree.flatten(experiment.parameter_shapes)
    arrays = directory.params(shapes)
    wrong = [f"{p}: {list(arrays[p].shape)}, this config has {list(shapes[p].shape)}" for p in shapes if arrays[p].shape != shapes[p].shape]
    if wrong or arrays.keys() != shapes.keys():
        raise UserError("\n".join([f"{directory.path} does not fit the config:", *wrong, *sorted(arrays.keys() ^ shapes.keys())]))
    where = tree.flatten(experiment.layout.of_params(tree.nest(shapes)))
    params = {path: jax.device_put(np.asarray(arrays[path], shapes[path].dtype), where[path]) for path in shapes}
    params |= _silenced(experiment, directory, params)
    if directory.left_out:
        experiment.report(f"left out, as the lab's model has no such part:\n{tree.grouped(directory.left_out)}")
    saver = Saver(experiment.workdir / "checkpoints", report=experiment.report)
    meta = {"imported": str(directory.path.absolute()), "model_type": directory.family.model_type}
    saver.save(0, {"params": tree.nest(params)}, meta=meta, wait=True)
    experiment.report(f"{tree.count(params):,} parameters of {directory.path} ({directory.family.model_type}) are in {experiment.workdir}")


def refuse_to_go_on(checkpoint: pathlib.Path, workdir: pathlib.Path) -> None:
    """Errors: UserError where a checkpoint holds imported weights: there is no training in it to go on with."""
    try:
        meta = snapshot.read_record(checkpoint)["meta"]
    except snapshot.Damaged:
        return  # whoever restores it says so
    if "imported" in meta:
        raise UserError(
            f"{workdir} holds imported weights, not a run to go on with: train in another --workdir with "
            f"--config.init_from.workdir={workdir}."
        )


def _silenced(experiment: Any, directory: Directory, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the bias of the logits with the tokens that may never be written far below all others (Marian's padding)."""
    said = directory.generation_config.get("bad_words_ids", directory.config.get("bad_words_ids")) or []
    single = [ids[0] for ids in said if len(ids) == 1]
    name = next((path for path in params if path.endswith("logits_bias")), None)
    if not single or name is None or not hasattr(experiment.model, "init_cache"):
        return {}
    experiment.report(f"tokens {single} (bad_words_ids) are never written: their logit's bias is {NEVER:g}")
    return {name: params[name].at[np.array(single)].set(NEVER)}


def _store_facts(experiment: Any, directory: Directory) -> None:
    """Labels come with the weights, and not from a train split."""
    names, facts = directory.labels, {}
    scores = experiment.config.task.name == "classification" and experiment.config.task.kw.kind == "score"
    facts["classification"] = dict(mean=0.0, deviation=1.0) if scores else dict(labels=names, counts=[1] * len(names))
    schemes = [scheme for scheme in tag_schemes.SCHEMES if "O" in names and all(tag_schemes.belongs(name, scheme) for name in names)]
    facts["tagging"] = dict(tags=names, scheme=next(iter(schemes), "none"), labels=[], characters="")
    if experiment.config.task.name in facts:
        build.store_facts(experiment.workdir, experiment.config, facts[experiment.config.task.name])


def export_run(experiment: Any, params: Any, output: pathlib.Path, model_type: str = "") -> None:
    """Writes a directory that transformers loads: config.json, model.safetensors, and the tokenizer's files where it has such."""
    sizes = _sizes(experiment)
    ids = dict(experiment.tokenizer.special_ids()) if hasattr(experiment.tokenizer, "special_ids") else {}
    ids |= {} if experiment.tokenizer.eos_id is None else {"eos": experiment.tokenizer.eos_id}
    model = dict(name=experiment.config.model.name, kw=lookup.part(experiment.config.model)[1])
    flat = _in_units_of_the_data(experiment, tree.flatten(params))
    written = export.write(output, model, sizes, flat, _settings(experiment, ids), model_type)
    experiment.report(f"{output}: {written}")
    experiment.report(f"{output}: {_write_tokenizer(experiment, output, ids)}")


def export_adapter(experiment: Any, params: Any, output: pathlib.Path, model_type: str = "") -> None:
    """Writes what an adapter added, of all `params` of a run, in PEFT's format, and beside it what was trained of the model itself."""
    adaptation = experiment.adaptation
    if adaptation.adapter is None:
        raise UserError(f"--format=peft: {experiment.workdir} was trained without an adapter: use --format=huggingface.")
    flat = _in_units_of_the_data(experiment, tree.flatten(params))
    leaves = layout.unrolled({path: leaf for path, leaf in flat.items() if path in adaptation.added})
    base = layout.unrolled({path: leaf for path, leaf in flat.items() if path not in adaptation.added})
    own = layout.unrolled({path: flat[path] for path in adaptation.trained - adaptation.added})
    written = peft.write(output, adaptation.adapter, leaves, own, _their_places(experiment, model_type, base))
    experiment.report(f"{output}: {written}")


def initial_adapter(experiment: Any, path: pathlib.Path) -> dict[str, Any]:
    """Returns {path: array} of what an adapter adds, and of what it trains of the model itself, from a directory that PEFT wrote."""
    adaptation = experiment.adaptation
    if adaptation.adapter is None:
        raise UserError(f"init_from.adapter: {path} holds an adapter and this run has none: set adapt.")
    shapes = tree.flatten(adaptation.shapes)
    wanted = layout.unrolled({path: shapes[path] for path in adaptation.added})
    own = layout.unrolled({path: shapes[path] for path in adaptation.trained - adaptation.added})
    base = layout.unrolled(tree.flatten(adaptation.base_shapes))
    found, whole = peft.read(path, adaptation.adapter, wanted, own, _their_places(experiment, "", base))
    experiment.report(f"{path}: {len(wanted)} arrays of the adapter" + (f", and whole: {', '.join(whole)}" if whole else ""))
    stacked = layout.stacked_as({at: Lazy.of(array) for at, array in found.items()}, shapes)
    return _in_deviations(experiment, {at: np.asarray(array) for at, array in stacked.items()})


def _their_places(experiment: Any, model_type: str, params: Mapping[str, Any]) -> peft.Places:
    """Returns where these parameters of the model, layers one by one, lie in the family that it is of."""
    model = dict(name=experiment.config.model.name, kw=lookup.part(experiment.config.model)[1])
    chosen, _ = export.choose(model, _sizes(experiment), model_type)
    table = family(chosen).table(plugin.completed("model", model))
    tied = frozenset(table.copies) | frozenset(table.copies.values())
    return peft.Places(rules(table, {path: array.shape for path, array in params.items()}), params, tied, model["name"])


def _sizes(experiment: Any) -> Sizes:
    positions = experiment.config.sequence_length
    sizes = experiment.sizes
    return Sizes(sizes["vocab_size"], positions, sizes.get("num_labels", 0))


def _settings(experiment: Any, ids: Mapping[str, int]) -> dict:
    """Returns what config.json says beside the architecture: special ids, labels, how a target begins."""
    found: dict[str, Any] = {f"{name}_token_id": ids.get(name) for name in ("bos", "eos", "pad")}
    start = getattr(experiment.task, "start_ids", None)
    if start is not None:
        start = start or (ids["eos"],)
        found["decoder_start_token_id"] = start[0]
        found["forced_eos_token_id"] = None
        found["forced_bos_token_id"] = start[1] if len(start) > 1 else None
        if found["pad_token_id"] is None:
            found["pad_token_id"] = start[0]
    labels = getattr(experiment.task, "labels", ()) or getattr(experiment.task, "tags", ())
    if labels and "num_labels" in experiment.sizes:
        found["id2label"] = {str(i): name for i, name in enumerate(labels)}
        found["label2id"] = {name: i for i, name in enumerate(labels)}
    if getattr(experiment.task, "kind", "") == "multi":
        found["problem_type"] = "multi_label_classification"
    elif len(labels) == 1 or (not labels and experiment.sizes.get("num_labels") == 1):
        found["problem_type"] = "regression"
    return found


def _in_units_of_the_data(experiment: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters whose scores are those of the data: the task's own count standard deviations from the train split's mean."""
    mean, deviation = _scale(experiment)
    return _scaled(params, deviation, mean)


def _in_deviations(experiment: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters whose scores are the task's own, of those whose scores are in the data's units: undoes the above."""
    mean, deviation = _scale(experiment)
    return _scaled(arrays, 1 / deviation, -mean / deviation)


def _scale(experiment: Any) -> tuple[float, float]:
    scores = getattr(experiment.task, "kind", "") == "score"
    return experiment.task.scale if scores else (0.0, 1.0)


def _scaled(params: Mapping[str, Any], factor: float, offset: float) -> dict[str, Any]:
    """Returns parameters with the head's scores multiplied and shifted; those without such a head as they are."""
    if (factor, offset) == (1.0, 0.0) or not {HEAD + "kernel", HEAD + "bias"} <= params.keys():
        return dict(params)
    kernel, bias = (np.asarray(params[HEAD + name], np.float32) * np.float32(factor) for name in ("kernel", "bias"))
    return {**params, HEAD + "kernel": kernel, HEAD + "bias": bias + np.float32(offset)}


def _write_tokenizer(experiment: Any, output: pathlib.Path, ids: Mapping[str, int]) -> str:
    name, tokenizer = experiment.config.data.tokenizer.name, experiment.tokenizer
    if name == "huggingface":
        artefact = (experiment.workdir / "tokenizer" / build.ARTEFACT).read_bytes()
    elif (content := tokenizer_json.of(name, tokenizer)) is not None:
        artefact = json.dumps(content).encode()
    else:
        return f'the tokenizer "{name}" has no form that transformers reads: encode with the lab'
    huggingface_files.write(output, artefact, dict(ids))
    return "tokenizer.json and tokenizer_config.json"
