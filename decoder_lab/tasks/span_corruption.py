"""Span corruption: an encoder-decoder writes the spans that were cut out of a text (T5, Raffel et al. 2020, section 3.1.4).

Batch keys: tokens, labels int32 [B,T]; weights float32 [B,T] (only to tell padding); and where rows hold padding, segments int32 [B,T].
The model reads what `corrupted` makes of them: source, source_segments [B,S], tokens, segments, labels, weights [B,U].
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import marks
from decoder_lab.ops import corruption, cross_entropy

OUTPUT = "next tokens of a target"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "perplexity")  # of evaluation


def problems(kw) -> list[str]:
    """The share is one, and spans have a token at least."""
    found = []
    if not 0 < kw["rate"] < 1:
        found.append(f"rate: got {kw['rate']}, expected the share of tokens to cut out, in (0, 1).")
    if kw["mean_span"] < 1:
        found.append(f"mean_span: got {kw['mean_span']}, expected tokens a span, 1 or more.")
    if kw["num_sentinels"] < 1:
        found.append(f"num_sentinels: got {kw['num_sentinels']}, expected 1 or more.")
    return found


@dataclasses.dataclass(frozen=True)
class Task:
    """15% of the tokens, in spans of 3 on average, are replaced by one sentinel each; the decoder writes each sentinel and its span.

    What is cut out is drawn anew at every step of training; in evaluation it follows from the row, so that every evaluation, with every
    batch size, is the same. The documents of a row are one text. Sentinels count down from the highest id of the model's vocabulary.

    Attributes:
      tokenizer: given by the lab; it must have an eos, which ends both texts and begins the decoder's.
      length: given by the lab: tokens of a row.
      rate: share of the tokens to cut out.
      mean_span: their number a span, on average.
      num_sentinels: how many ids there are for sentinels.
      append_sentinels: they are added above the tokenizer's vocabulary; False: they are its highest ids already, as in T5's own.
      label_smoothing: mass spread evenly over all V classes while training.
      text_field: which field of a raw example is the text.
    """

    tokenizer: Any
    length: int
    rate: float = 0.15
    mean_span: float = 3.0
    num_sentinels: int = 100
    append_sentinels: bool = True
    label_smoothing: float = 0.0
    text_field: str = "text"

    draws_targets = True  # in `metrics`: those of the batch are not what is predicted

    def __post_init__(self):
        if self.tokenizer is not None and self.tokenizer.eos_id is None:
            raise UserError("span_corruption: data.tokenizer has no eos token, which ends every text. Use sentencepiece, byte or word.")
        spans = corruption.span_sizes(self.length, self.rate, self.mean_span).spans
        if spans > self.num_sentinels:
            raise UserError(
                f"span_corruption: rows of {self.length} tokens have {spans} spans, and there are {self.num_sentinels} sentinels: "
                f"set --config.task.kw.num_sentinels={spans}, or a shorter --config.sequence_length."
            )

    def sizes(self) -> dict[str, int]:
        """The model's vocabulary: the tokenizer's and, unless it has them, the sentinels."""
        size = self.tokenizer.vocab_size + (self.num_sentinels if self.append_sentinels else 0)
        return {"vocab_size": size, "source_vocab_size": size}

    def example(self, raw: dict) -> dict[str, np.ndarray]:
        """Raw example -> {"tokens": int32 [T]}, with what the tokenizer puts around a text, less the end of text that the lab writes."""
        return {"tokens": marks.document(self.tokenizer, self.tokenizer.encode(raw[self.text_field]))}

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        around = [*marks.around(self.tokenizer)[0].tolist(), *marks.closing(self.tokenizer).tolist()]
        return f"span_corruption 1 {self.text_field}" + (f" {around}" if around else "")

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {name: np.ones((1, 1), np.int32) for name in ("source", "source_segments", "tokens", "segments")}

    def forward(self, model: Any, batch: dict, deterministic: bool) -> jax.Array:
        """Bound model, what `corrupted` returns -> logits_BUV float32."""
        if not hasattr(model, "encode"):
            raise UserError("span_corruption needs a model with an encoder, such as --config.model.name=encoder_decoder.")
        places = dict(segments_BT=batch["segments"], source_BS=batch["source"], source_segments_BS=batch["source_segments"])
        return model(batch["tokens"], **places, deterministic=deterministic)[0]

    def corrupted(self, batch: dict, key: jax.Array | None) -> dict[str, jax.Array]:
        """Returns the batch of two texts for rows of tokens; `key` None is evaluation."""
        tokens_BT = jnp.asarray(batch["tokens"])
        real_BT = corruption.real_places(batch.get("segments"), batch["weights"])
        size = corruption.span_sizes(tokens_BT.shape[1], self.rate, self.mean_span)
        spans_of = functools.partial(corruption.noise_spans, rate=self.rate, mean_span=self.mean_span)
        hide = functools.partial(
            corruption.hide_spans,
            first_sentinel=self.sizes()["vocab_size"] - 1,
            eos_id=self.tokenizer.eos_id,
            num_inputs=size.inputs,
            num_targets=size.targets,
        )
        span_BT = jax.vmap(spans_of)(corruption.row_keys(tokens_BT, key), real_BT)
        source_BS, source_segments_BS, labels_BU, segments_BU = jax.vmap(hide)(tokens_BT, real_BT, span_BT)
        tokens_BU = jnp.pad(labels_BU[:, :-1], ((0, 0), (1, 0)), constant_values=self.tokenizer.eos_id)
        return {
            "source": source_BS,
            "source_segments": source_segments_BS,
            "tokens": jnp.where(segments_BU == 0, 0, tokens_BU),
            "segments": segments_BU,
            "labels": labels_BU,
            "weights": segments_BU.astype(jnp.float32),
        }

    def flops_per_token(self, model: Any, length: int) -> float | None:
        """Returns forward and backward FLOPs a token of rows of `length`, which become two texts; None where the model does not know."""
        size = corruption.span_sizes(length, self.rate, self.mean_span)
        return model.flops(size.inputs, size.targets) / length if hasattr(model, "flops") else None

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)} over the tokens of targets; `rng` seeds spans and dropout in training, None is evaluation."""
        span_key, dropout_key = (None, None) if rng is None else jax.random.split(rng)
        both = self.corrupted(batch, span_key)
        rngs = None if rng is None else {"dropout": dropout_key}
        logits_BUV = model.apply({"params": params}, both, rng is None, method=self.forward, rngs=rngs)
        smoothing = 0.0 if rng is None else self.label_smoothing
        sums = cross_entropy.cross_entropy(logits_BUV, both["labels"], both["weights"], label_smoothing=smoothing)
        return {"loss": (sums.loss, sums.weight), "nll": (sums.nll, sums.weight), "accuracy": (sums.correct, sums.weight)}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means -> loss (nats a target token), accuracy and perplexity."""
        return {"loss": means["nll"], "accuracy": means["accuracy"], "perplexity": math.exp(min(means["nll"], 700.0))}
