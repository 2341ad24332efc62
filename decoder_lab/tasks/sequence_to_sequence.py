"""Sequence to sequence: write a target text from a source text. Translation, summarisation, dialogue and data-to-text differ by their data.

Raw item: {"source": str, "target": str}, and "references": [str] where several targets are right (only generation is scored with them).
Batch keys: source, source_segments int32 [B,S]; tokens, segments, labels int32 [B,T]; weights float32 [B,T]. Segments are 1 where something
stands and 0 in padding, weights likewise: padding is known by its place, never by its id. The decoder reads `tokens`, which is eos followed
by all labels but the last, and predicts `labels`, which end with eos.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import marks, named_texts
from decoder_lab.ops import cross_entropy

OUTPUT = "next tokens of a target"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "perplexity")  # of evaluation

SIGMOID_K = 15.0  # of the inverse sigmoid schedule, with the run counted from 0 to 100


def problems(kw, length) -> list[str]:
    """Shares lie in [0, 1], a text has room for one token and its end, and rows are long enough."""
    found = []
    if not 0 <= kw["label_smoothing"] < 1:
        found.append(f"label_smoothing: got {kw['label_smoothing']}, expected a share in [0, 1).")
    if not 0 <= kw["sampling_rate"] <= 1:
        found.append(f"sampling_rate: got {kw['sampling_rate']}, expected a probability in [0, 1].")
    if kw["sampling_rate"] and kw["scheduled_sampling"] == "none":
        found.append('sampling_rate does nothing without scheduled_sampling="linear" or "inverse_sigmoid".')
    if not kw["sampling_rate"] and kw["scheduled_sampling"] != "none":
        found.append(f'scheduled_sampling="{kw["scheduled_sampling"]}" needs a sampling_rate above 0, such as 0.25.')
    if kw["loss_chunk"] < 0:
        found.append(f"loss_chunk: got {kw['loss_chunk']}, expected 0 (all at once) or more.")
    for name in ("max_source_length", "max_target_length"):
        if kw[name] is not None and kw[name] < 2:
            found.append(f"{name}: got {kw[name]}, expected 2 or more (a token and eos).")
        if length is not None and (kw[name] or 0) > length:
            found.append(f"{name}: got {kw[name]}, expected at most {length}: raise --config.sequence_length.")
    return found


def needs(kw) -> dict[str, str]:
    """What only some decoders know, and the setting that hands it to them."""
    return {} if kw["scheduled_sampling"] == "none" else {"sampling_rate": f'scheduled_sampling="{kw["scheduled_sampling"]}"'}


@dataclasses.dataclass(frozen=True)
class Task:
    """Any encoder-decoder model on pairs of texts.

    Attributes:
      tokenizer: given by the lab: of targets. It must have an eos, which begins and ends every target.
      source_tokenizer: given by the lab: of sources; the same one where the config names no other.
      length: given by the lab: longest source and target in tokens.
      label_smoothing: mass spread evenly over all V classes while training, the label's own included: `(1 - eps) onehot + eps / V`.
      scheduled_sampling: how the share of the decoder's inputs that are its own draws grows over the run (Bengio et al. 2015,
        arXiv:1506.03099), for decoders that know `sampling_rate`: "linear" from 0, or "inverse_sigmoid", 1 - k / (k + exp(i / k)) with
        k = 15 and i from 0 to 100.
      sampling_rate: what that share is multiplied by: its value at the end.
      max_source_length: longest source, its eos included; None is `length`.
      max_target_length: longest target, its eos included; None is `length`.
      source_eos: whether a source ends as the tokenizer ends a text: with its `end_ids`, such as [SEP], or else with eos. What it puts
        before a text (`start_ids`) stands before it in any case.
      start_ids: what the decoder reads before a target; (): eos. T5 and Marian begin after padding, BART after eos and its own beginning.
      loss_chunk: time steps whose logits are held at once; 0 holds [B,T,V] whole.
      too_long: "truncate" keeps the beginning (of a source with its eos; a target that was cut has none, as its text goes on), "drop"
        leaves the pair out of training and of the mean loss. What is generated from always has its beginning.
    """

    tokenizer: Any
    source_tokenizer: Any
    length: int
    label_smoothing: float = 0.0
    scheduled_sampling: Literal["none", "linear", "inverse_sigmoid"] = "none"
    sampling_rate: float = 0.0
    max_source_length: int | None = None
    max_target_length: int | None = None
    source_eos: bool = True
    start_ids: tuple[int, ...] = ()
    too_long: Literal["truncate", "drop"] = "truncate"
    loss_chunk: int = 0

    batching = "examples"
    gold_fields = ("target", "references")
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to cut or leave out

    def __post_init__(self):
        lacking = [
            name
            for name, tokenizer in (("tokenizer", self.tokenizer), ("source_tokenizer", self.source_tokenizer if self.source_eos else None))
            if tokenizer is not None and tokenizer.eos_id is None and (name == "tokenizer" or not len(marks.around(tokenizer)[1]))
        ]
        if lacking:
            raise UserError(
                f"sequence_to_sequence: data.{lacking[0]} has no eos token, which ends every text. Tokenizers with one: sentencepiece, "
                f"byte, word, huggingface (where its file names one), character with --config.data.{lacking[0]}.kw.eos=true."
            )

    def texts(self, raw: dict) -> Iterator[str]:
        """What `tokenizer` learns from."""
        yield named_texts.of(raw, "target")

    def source_texts(self, raw: dict) -> Iterator[str]:
        """What `source_tokenizer` learns from."""
        yield named_texts.of(raw, "source")

    def example(self, raw: dict) -> dict[str, np.ndarray] | list:
        """Raw pair -> the features of one example, each of its own length; [] where it is too long and `too_long` is "drop"."""
        source, target = self._source(raw), self.tokenizer.encode(named_texts.of(raw, "target"))
        start = self._start()
        labels = np.concatenate([np.zeros(len(start) - 1, np.int32), target, [self.tokenizer.eos_id]])
        most_source, most_target = self.max_source_length or self.length, self.max_target_length or self.length
        for side, got, most in (("source", len(source), most_source), ("target", len(labels), most_target)):
            if got > most:
                done = "left out as too long" if self.too_long == "drop" else "cut"
                self._count(f"{side}s of more than {most} tokens (task.kw.max_{side}_length) {done}")
        if self.too_long == "drop" and (len(source) > most_source or len(labels) > most_target):
            return []
        source, labels = self._cut(source), labels[:most_target].astype(np.int32)
        tokens = np.concatenate([start, labels[len(start) - 1 : -1]]).astype(np.int32)
        predicted = (np.arange(len(labels)) >= len(start) - 1).astype(np.float32)
        return {
            "source": source,
            "source_segments": np.ones(len(source), np.int32),
            "tokens": tokens,
            "segments": np.ones(len(tokens), np.int32),
            "labels": labels,
            "weights": predicted,
        }

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def prompt(self, raw: dict) -> dict:
        """Raw item with a source -> what the decoder begins with, and the unpadded features that the encoder reads."""
        source = self._cut(self._source(raw))
        return {"tokens": self._start(), "inputs": {"source": source, "source_segments": np.ones(len(source), np.int32)}}

    def extent(self, raw: dict) -> tuple[int, int]:
        """Returns a source's tokens, 0 where it is blank, and how many of them the model does not see."""
        source = self._source(raw)
        return (len(source) if raw["source"].strip() else 0), len(source) - len(self._cut(source))

    def _start(self) -> list[int]:
        return list(self.start_ids) or [self.tokenizer.eos_id]

    def _source(self, raw: dict) -> np.ndarray:
        """Returns the whole source, int32 [S]."""
        before, _ = marks.around(self.source_tokenizer)
        return np.concatenate([before, self.source_tokenizer.encode(named_texts.of(raw, "source")), self._source_end()]).astype(np.int32)

    def _source_end(self) -> list[int]:
        """Returns what ends a source."""
        if not self.source_eos:
            return []
        return marks.around(self.source_tokenizer)[1].tolist() or [self.source_tokenizer.eos_id]

    def _cut(self, source: np.ndarray) -> np.ndarray:
        most = self.max_source_length or self.length
        if len(source) <= most:
            return source
        end = self._source_end()
        if most - len(end) <= len(marks.around(self.source_tokenizer)[0]):
            raise UserError(
                f"sequence_to_sequence: a source of {most} tokens (task.kw.max_source_length, or sequence_length) has no room for a token "
                "between the tokenizer's marks: raise it."
            )
        return np.concatenate([source[: most - len(end)], end]).astype(np.int32)

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        sizes = f"{self.max_source_length or self.length} {self.max_target_length or self.length}"
        return f"sequence_to_sequence 1 {sizes} {self.source_eos} {self.too_long}" + "".join(
            f" {x}" for x in (self.start_ids, self._unlike_eos()) if x
        )

    def _unlike_eos(self) -> tuple[int, ...]:
        """Returns what ends a source where it is not the tokenizer's eos."""
        end = tuple(self._source_end())
        return () if end in ((), (self.source_tokenizer.eos_id,)) else end

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {name: np.ones((1, 1), np.int32) for name in ("source", "source_segments", "tokens", "segments")}

    def forward(self, model: Any, batch: dict, deterministic: bool, sampling_rate: Any = None, return_hidden: bool = False) -> jax.Array:
        """Bound model, batch -> logits_BTV float32, or hidden_BTD. `sampling_rate` goes to decoders that know scheduled sampling."""
        if not hasattr(model, "encode"):
            raise UserError(
                "sequence_to_sequence needs a model with an encoder, such as --config.model.name=encoder_decoder; a decoder-only model "
                "learns pairs by --config.task.name=prefix_language_modeling."
            )
        extra = {} if sampling_rate is None else {"sampling_rate": sampling_rate}
        places = dict(segments_BT=batch["segments"], source_BS=batch["source"], source_segments_BS=batch["source_segments"])
        return model(batch["tokens"], **places, **extra, deterministic=deterministic, return_hidden=return_hidden)[0]

    def sampling_rate_at(self, progress: Any) -> jax.Array:
        """Returns the probability with which a decoder's input is its own draw, when a share `progress` of the run is done."""
        progress = jnp.asarray(progress, jnp.float32)
        if self.scheduled_sampling == "linear":
            return self.sampling_rate * progress
        return self.sampling_rate * (1 - SIGMOID_K / (SIGMOID_K + jnp.exp(100 * progress / SIGMOID_K)))

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)}; `rng` seeds dropout and sampling while training; None is evaluation: the plain loss."""
        training = rng is not None
        rate, rngs = None, None
        if training:
            dropout, sampling = jax.random.split(rng)
            rngs = {"dropout": dropout, "sampling": sampling}
            if self.scheduled_sampling != "none":
                rate = self.sampling_rate_at(0.0 if progress is None else progress)
        outputs = model.apply({"params": params}, batch, not training, rate, bool(self.loss_chunk), method=self.forward, rngs=rngs)
        sums = cross_entropy.either_cross_entropy(
            lambda hidden_BTD: model.apply({"params": params}, hidden_BTD, method="unembed"),
            outputs,
            batch["labels"],
            batch["weights"],
            chunk=self.loss_chunk,
            label_smoothing=self.label_smoothing if training else 0.0,
        )
        return {"loss": (sums.loss, sums.weight), "nll": (sums.nll, sums.weight), "accuracy": (sums.correct, sums.weight)}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means -> loss (nats a token), accuracy and perplexity, all of the true target so far as input."""
        return {"loss": means["nll"], "accuracy": means["accuracy"], "perplexity": math.exp(min(means["nll"], 700.0))}
