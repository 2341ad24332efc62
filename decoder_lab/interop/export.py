"""A model of the lab as a directory that transformers loads: which family can say it, its config.json, its tensors."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.interop import layout, safetensors, table
from decoder_lab.interop import plugin as plugins
from decoder_lab.interop.directory import family
from decoder_lab.interop.family_base import Sizes


def config_for(plugin: Any, sizes: Sizes, model_type: str) -> tuple[dict, list[str]]:
    """Returns (config.json of our model in one family, what it cannot say of it).

    config.json is read again, and what comes back is compared with what was written: a family needs no list of what it cannot do.
    """
    of, wanted = family(model_type), plugins.explicit("model", plugin, sizes.num_positions)
    if wanted["name"] not in of.architectures.values():
        return {}, [f'model.name: got "{wanted["name"]}", expected one of {", ".join(sorted(set(of.architectures.values())))}']
    try:
        config = of.config(wanted, sizes)
        again = plugins.canonical("model", of.plugin(config), sizes.num_positions)
    except UserError as error:
        return {}, str(error).splitlines()
    return config, plugins.differences(plugins.canonical("model", wanted, sizes.num_positions), again)


def choose(plugin: Any, sizes: Sizes, model_type: str = "") -> tuple[str, dict]:
    """Returns (model_type, config.json) of the given family, or of the first that can say everything of this model.

    Errors: UserError with what each family lacks, the nearest first.
    """
    wanted = [model_type] if model_type else lookup.names("family")
    tried = {model_type: config_for(plugin, sizes, model_type) for model_type in wanted}
    for model_type, (config, lacking) in tried.items():
        if not lacking:
            return model_type, config
    name = lookup.part(plugin)[0]
    fitting = [model_type for model_type in tried if name in family(model_type).architectures.values()]
    if not fitting:
        known = sorted({model for model_type in tried for model in family(model_type).architectures.values()})
        raise UserError(f'export: model "{name}" is none of transformers\' ({model_type or "any family"}). Those are: {", ".join(known)}.')
    nearest = sorted(fitting, key=lambda model_type: len(tried[model_type][1]))
    lines = [f"{model_type}: {line}" for model_type in nearest[:3] for line in tried[model_type][1][:6]]
    listing = "\n".join(f"  {line}" for line in lines)
    raise UserError(
        f"export: no family of transformers computes what this model computes (got: this model; expected: what the family has):\n{listing}"
    )


def write(directory: pathlib.Path, plugin: Any, sizes: Sizes, params: Mapping[str, Any], more: Mapping, model_type: str = "") -> str:
    """Writes config.json and the weights of parameters by path; returns a line for the user.

    more: settings of config.json beside those of the architecture, such as special ids.
    """
    chosen, config = choose(plugin, sizes, model_type)
    tensors = table.save(family(chosen).table(plugins.completed("model", plugin)), layout.unrolled(params))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**config, **more}, indent=2) + "\n")
    return f"{config['architectures'][0]} ({chosen}): {safetensors.write_directory(directory, tensors)}"
