"""A directory as transformers writes it, opened: its model in the lab's terms, its parameters as lazy arrays, its special tokens."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.interop import layout, plugin, safetensors, shapes, table
from decoder_lab.interop.family_base import Family, Sizes
from decoder_lab.interop.safetensors import Lazy

SPECIAL = ("bos", "eos", "pad", "cls", "sep", "mask", "unk")


@dataclasses.dataclass(frozen=True)
class Directory:
    """`config.json` and the weights beside it; nothing is read before it is asked for."""

    path: pathlib.Path

    @functools.cached_property
    def config(self) -> dict:
        """What config.json says."""
        return read_json(self.path / "config.json", f"{self.path} is no directory of a model: it has no config.json.")

    @functools.cached_property
    def generation_config(self) -> dict:
        """What generation_config.json says beside; {} where there is none."""
        file = self.path / "generation_config.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    @functools.cached_property
    def family(self) -> Family:
        """How its architecture is written. Errors: UserError for one that the lab does not know."""
        return family(str(self.config.get("model_type")))

    @functools.cached_property
    def plugin(self) -> dict:
        """Our model `dict(name, kw)`."""
        found = self.family.plugin(self.config)
        if found["name"] == "dual_encoder":
            self._check_modules()
        pooling = self.path / "1_Pooling" / "config.json"
        if found["name"] == "dual_encoder" and pooling.is_file():
            kinds = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first", "pooling_mode_max_tokens": "max"}
            chosen = [name for name, value in json.loads(pooling.read_text()).items() if name.startswith("pooling_mode_") and value is True]
            if len(chosen) != 1 or chosen[0] not in kinds:
                raise UserError(f"{pooling}: got {', '.join(chosen) or 'no pooling'}, expected one of {', '.join(kinds)}.")
            found["kw"]["pooling"] = kinds[chosen[0]]
        return found

    def _check_modules(self) -> None:
        """Errors: UserError where a sentence encoder goes on after its pooling, by a layer whose weights lie in another folder."""
        file = self.path / "modules.json"
        types = [str(module.get("type")).rpartition(".")[2] for module in json.loads(file.read_text())] if file.is_file() else []
        if strange := [name for name in types if name not in ("Transformer", "Pooling", "Normalize")]:
            raise UserError(f"{file}: got {', '.join(strange)}, expected Transformer, Pooling and Normalize only.")

    @functools.cached_property
    def sizes(self) -> Sizes:
        """What the model is built for."""
        return self.family.sizes(self.config)

    @functools.cached_property
    def labels(self) -> list[str]:
        """Names of a head's labels, by their number."""
        names = self.config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(self.sizes.num_labels)}
        return [names[key] for key in sorted(names, key=int)]

    @functools.cached_property
    def _loaded(self) -> tuple[dict[str, Lazy], list[str]]:
        made = plugin.completed("model", self.plugin)
        return table.load(
            self.family.table(made), safetensors.read_directory(self.path), shapes.of(self.plugin, self.sizes), str(self.path)
        )

    @property
    def left_out(self) -> list[str]:
        """Names of learned tensors for which our model has no place."""
        return self._loaded[1]

    def params(self, like: Mapping[str, Any] | None = None) -> dict[str, Lazy]:
        """Returns {path: array}, layers stacked where `like` (paths of a model) has them stacked. Errors: UserError, see `table.load`."""
        return layout.stacked_as(self._loaded[0], like or {})

    def token_ids(self) -> dict[str, int]:
        """Returns {"bos": id, "eos": id, ...} as far as config.json, or its family, says."""
        found = {}
        for name in SPECIAL:
            value = self.config.get(f"{name}_token_id", self.family.tokens.get(f"{name}_token_id"))
            value = value[0] if isinstance(value, list) else value
            if value is not None:
                found[name] = value
        return found


def family(model_type: str) -> Family:
    """Returns the family of a `model_type`. Errors: UserError with the nearest."""
    if model_type == "gemma3":
        raise UserError('model_type "gemma3" is the model of texts and pictures; the lab reads the text model, "gemma3_text".')
    return lookup.find("family", model_type)()


def read_json(path: pathlib.Path, missing: str) -> dict:
    """Returns what a JSON file holds. Errors: UserError."""
    if not path.is_file():
        raise UserError(missing)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}.") from None
