"""What the families of `family/` share: config.json to a model of the lab and back, told by tables."""

import dataclasses
from collections.abc import Mapping

from decoder_lab.core.errors import UserError, unknown
from decoder_lab.interop.table import Table

# transformers' names of activations -> ours, plain and gated; the first of several is the one that is written
ACTIVATIONS = {
    "gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu": "relu", "silu": "silu",
    "swish": "silu",
}  # fmt: skip
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the lab gives to a model beside its fields.

    Attributes:
      vocab_size: rows of the embedding table.
      num_positions: longest text that the model knows positions for.
      num_labels: of a classifier or tagger; 0 where there is none.
    """

    vocab_size: int
    num_positions: int
    num_labels: int = 0


class Unsupported(UserError):
    """What a config.json asks for, or a model of the lab has, that the other side lacks; the text says which setting."""


class Family:
    """One `model_type` of transformers.

    Attributes:
      model_type: as in config.json.
      architectures: {their class: our model}; the first of a model is the one that is written.
      fields: {their setting: (our field, their default)} of the Transformer, the same value on both sides.
      fixed: our fields that are the same in the whole family.
      expected: {their setting: the one value that is supported}, also where it is missing.
      vocab_size, num_positions: their defaults of these sizes, and the setting's name of the second.
      tokens: {setting: default} of the special ids, which old files leave out.
    """

    model_type = ""
    architectures = {}
    fields = {}
    fixed = {}
    expected = {}
    vocab_size = 0
    num_positions = ("max_position_embeddings", 2048)
    positions_before = 0  # rows of their table of positions that no real token uses
    tokens = {}

    def plugin(self, config: Mapping) -> dict:
        """Returns our model `dict(name, kw)` for a config.json. Errors: UserError for what the lab has no field for."""
        self.check(config)
        return dict(name=self.model_name(config), kw=self.transformer(config))

    def check(self, config: Mapping) -> None:
        """Errors: UserError, with all settings that are not supported."""
        wrong = [
            f"{name}: got {config[name]!r}, this program knows {value!r} only"
            for name, value in self.expected.items()
            if config.get(name, value) != value
        ]
        if (method := config.get("quantization_config")) is not None:
            kind = method.get("quant_method", "unnamed") if isinstance(method, Mapping) else method
            wrong.append(f"quantization_config: got {kind!r}, this program reads plain weights: dequantise them with transformers first")
        if wrong:
            raise Unsupported("\n".join([f"config.json of {self.model_type}:", *(f"  {line}" for line in wrong)]))

    def model_name(self, config: Mapping) -> str:
        """Returns the name of our model for the first architecture that config.json names."""
        name = (config.get("architectures") or [next(iter(self.architectures))])[0]
        if name not in self.architectures:
            raise Unsupported(unknown(f"architecture of {self.model_type}", name, self.architectures))
        return self.architectures[name]

    def transformer(self, config: Mapping) -> dict:
        """Returns the fields of our Transformer."""
        kw = {ours: config.get(theirs, default) for theirs, (ours, default) in self.fields.items()}
        return {**kw, **self.fixed, **self.read(config)}

    def read(self, config: Mapping) -> dict:
        """Returns the fields that are more than renamed settings."""
        return {}

    def write(self, kw: Mapping) -> dict:
        """The reverse of `read`."""
        return {}

    def sizes(self, config: Mapping) -> Sizes:
        """Returns what a config.json says of sizes."""
        labels = config.get("id2label") or {}
        name, default = self.num_positions
        positions = config.get(name, default) - self.positions_before
        return Sizes(config.get("vocab_size", self.vocab_size), positions, len(labels) or config.get("num_labels", 2))

    def config(self, plugin: Mapping, sizes: Sizes) -> dict:
        """Returns config.json for our model (`plugin.explicit`): the best that the family can say, which may leave something out.

        Whether it says everything is seen by reading it again (`export.config_for`).
        """
        kw = self.transformer_of(plugin)
        settings = {theirs: kw[ours] for theirs, (ours, _) in self.fields.items()}
        positions = {self.num_positions[0]: sizes.num_positions + self.positions_before}
        architecture = next(theirs for theirs, ours in self.architectures.items() if ours == plugin["name"])
        named = dict(architectures=[architecture], model_type=self.model_type, vocab_size=sizes.vocab_size, torch_dtype="float32")
        return {**named, **positions, **settings, **self.expected, **self.write(kw)}

    def transformer_of(self, plugin: Mapping) -> Mapping:
        """Returns the fields of the Transformer inside our model."""
        return plugin["kw"]

    def table(self, plugin: Mapping) -> Table:
        """Returns the rename table for our model."""
        raise NotImplementedError

    def task(self, config: Mapping, tokens: Mapping) -> dict:
        """Returns the task `dict(name, kw)` that a run with such weights begins with.

        tokens: {"bos": id, "eos": ..., "pad": ..., "mask": ..., ...} of the tokenizer, those it has.
        """
        return dict(name="language_modeling", kw={})


def activation(config: Mapping, name: str, default: str, gated: bool = False) -> str:
    """Returns our name of an activation. Errors: UserError for one that the lab does not have."""
    known, theirs = GATED if gated else ACTIVATIONS, config.get(name, default)
    if theirs not in known:
        raise Unsupported(unknown(f"config.json: {name}", str(theirs), known))
    return known[theirs]


def their_activation(ours: str) -> str:
    """Returns transformers' name of an activation; one that it lacks comes back as it is."""
    both = {**ACTIVATIONS, **{f"gated {k}": v for k, v in GATED.items()}}
    return next((theirs.removeprefix("gated ") for theirs, name in both.items() if name == ours), ours)
