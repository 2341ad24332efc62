"""Pairs of texts for a decoder-only model: it reads source, eos, target in one row and learns the target (prefix language modelling).

Raw item: {"source": str, "target": str}, and "references": [str] where several targets are right (only generation is scored with them).
Batch keys: tokens, segments, labels, prefix int32 [B,T]; weights float32 [B,T]. Segments are 1 where something stands and 0 in padding;
prefix is 1 in the source; weights are 1 where the target and its eos are predicted. The eos behind the source begins the target, as that
of `sequence_to_sequence` does.
"""

import dataclasses
import inspect
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import marks, named_texts
from decoder_lab.ops import cross_entropy

OUTPUT = "next tokens"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "perplexity")  # of evaluation


def problems(kw, length) -> list[str]:
    """Shares lie in [0, 1), a text has room for a token and its end, and both texts for each other."""
    found = []
    if not 0 <= kw["label_smoothing"] < 1:
        found.append(f"label_smoothing: got {kw['label_smoothing']}, expected a share in [0, 1).")
    for name in ("max_source_length", "max_target_length"):
        if kw[name] is not None and kw[name] < 2:
            found.append(f"{name}: got {kw[name]}, expected 2 or more.")
    if found or length is None:
        return found
    source, target = kw["max_source_length"], kw["max_target_length"]
    target = target or (length // 2 if source is None else length - source)  # as `Task._most`
    source = source or length - target
    if source + target > length or min(source, target) < 1:
        found.append(
            f"a source of {source} tokens and a target of {target} do not fit a row of {length}: lower max_source_length or "
            "max_target_length, or raise --config.sequence_length."
        )
    return found


@dataclasses.dataclass(frozen=True)
class Task:
    """A language model that is trained on targets only and may read the source in both directions.

    Attributes:
      tokenizer: given by the lab: of source and target; it must have an eos.
      length: given by the lab: longest row in tokens.
      bidirectional_prefix: the tokens of the source see each other in both directions (Raffel et al. 2020, section 3.2.1); False: a
        language model that is asked for the target only. Generation follows it.
      max_source_length: longest source, with what the tokenizer puts before a text (`start_ids`); None is what the longest target leaves of
        the row.
      max_target_length: longest target, its eos included; None is half of the row.
      too_long: "truncate" keeps the beginnings (a target that was cut has no eos, as its text goes on), "drop" leaves the pair out.
      label_smoothing: mass spread evenly over all V classes while training.
    """

    tokenizer: Any
    length: int
    bidirectional_prefix: bool = True
    max_source_length: int | None = None
    max_target_length: int | None = None
    too_long: Literal["truncate", "drop"] = "truncate"
    label_smoothing: float = 0.0

    batching = "examples"
    packable = True  # all that it reads runs along the row, and segments keep examples apart
    gold_fields = ("target", "references")
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to cut or leave out

    def __post_init__(self):
        if self.tokenizer is not None and self.tokenizer.eos_id is None:
            raise UserError(
                "prefix_language_modeling: data.tokenizer has no eos token, which stands between source and target and ends the row. "
                "Tokenizers with one: sentencepiece, byte, word, huggingface (where its file names one)."
            )

    @property
    def _most(self) -> tuple[int, int]:
        """Longest source, and longest target with the eos at its end; the eos before it is paid for by that end, which is no input."""
        target = self.max_target_length or (self.length // 2 if self.max_source_length is None else self.length - self.max_source_length)
        return self.max_source_length or self.length - target, target

    def texts(self, raw: dict) -> Iterator[str]:
        """What `tokenizer` learns from."""
        yield named_texts.of(raw, "source")
        yield named_texts.of(raw, "target")

    def example(self, raw: dict) -> dict[str, np.ndarray] | list:
        """Raw pair -> the features of one example; [] where it is too long and `too_long` is "drop"."""
        eos = self.tokenizer.eos_id
        source, target = self._source(raw), np.append(self.tokenizer.encode(named_texts.of(raw, "target")), eos)
        for side, got, most in zip(("source", "target"), (source, target), self._most, strict=True):
            if len(got) > most:
                done = "left out as too long" if self.too_long == "drop" else "cut"
                what = f"{side}s of more than {most} tokens (task.kw.max_{side}_length) {done}"
                self.counts[what] = self.counts.get(what, 0) + 1
                if self.too_long == "drop":
                    return []
        source, target = source[: self._most[0]], target[: self._most[1]]
        row = np.concatenate([source, [eos], target]).astype(np.int32)
        in_source = (np.arange(len(row) - 1) < len(source)).astype(np.int32)
        return {
            "tokens": row[:-1],
            "segments": np.ones(len(row) - 1, np.int32),
            "labels": row[1:],
            "prefix": in_source,
            "weights": (1 - in_source).astype(np.float32),
        }

    def prompt(self, raw: dict) -> dict:
        """Raw item with a source -> what the model continues: the source and the eos that begins a target."""
        return {"tokens": [*self._source(raw)[: self._most[0]].tolist(), self.tokenizer.eos_id], "inputs": None}

    def _source(self, raw: dict) -> np.ndarray:
        """Returns the whole source, int32 [S], with what the tokenizer puts before a text; what ends one is the eos that follows."""
        before, _ = marks.around(self.tokenizer)
        if self._most[0] <= len(before):
            raise UserError(
                f"prefix_language_modeling: a source of {self._most[0]} tokens (task.kw.max_source_length, or sequence_length) has no room "
                "for a token between the tokenizer's marks: raise it."
            )
        return np.concatenate([before, self.tokenizer.encode(named_texts.of(raw, "source"))]).astype(np.int32)

    def extent(self, raw: dict) -> tuple[int, int]:
        """Returns a source's tokens, 0 where it is blank, and how many of them the model does not see."""
        size = len(self._source(raw))
        return (size if raw["source"].strip() else 0), max(0, size - self._most[0])

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        before = marks.around(self.tokenizer)[0].tolist()
        return f"prefix_language_modeling 1 {self._most} {self.too_long}" + (f" {before}" if before else "")

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {name: np.ones((1, 1), np.int32) for name in ("tokens", "segments", "prefix")}

    def forward(self, model: Any, batch: dict, deterministic: bool) -> jax.Array:
        """Bound model, batch -> logits_BTV float32."""
        prefix = {}
        if self.bidirectional_prefix:
            if "prefix_BT" not in inspect.signature(type(model).__call__).parameters:
                raise UserError(
                    "prefix_language_modeling: only a Transformer reads the source in both directions; set "
                    "--config.task.kw.bidirectional_prefix=false, or --config.model.name=decoder_only."
                )
            prefix = {"prefix_BT": batch["prefix"]}
        return model(batch["tokens"], segments_BT=batch["segments"], **prefix, deterministic=deterministic)[0]

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)} over the targets' tokens; `rng` is the dropout key while training, None in evaluation."""
        rngs = None if rng is None else {"dropout": rng}
        logits_BTV = model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)
        smoothing = 0.0 if rng is None else self.label_smoothing
        sums = cross_entropy.cross_entropy(logits_BTV, batch["labels"], batch["weights"], label_smoothing=smoothing)
        return {"loss": (sums.loss, sums.weight), "nll": (sums.nll, sums.weight), "accuracy": (sums.correct, sums.weight)}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means -> loss (nats a target token), accuracy and perplexity."""
        return {"loss": means["nll"], "accuracy": means["accuracy"], "perplexity": math.exp(min(means["nll"], 700.0))}
