"""Language modelling: predict each next token.

Batch keys: tokens, labels int32 [B,T]; weights float32 [B,T], 0 where nothing is to be predicted; and for rows of several documents
segments (0 is padding) and positions, int32 [B,T].
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from decoder_lab.data import marks
from decoder_lab.ops import cross_entropy

OUTPUT = "next tokens"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "perplexity", "bits_per_byte")  # of evaluation


@dataclasses.dataclass(frozen=True)
class Task:
    """Next-token prediction.

    Attributes:
      tokenizer: given by the lab.
      label_smoothing: mass spread evenly over all V classes while training, `(1 - eps) onehot + eps / V`.
      z_loss: weight of `log(Z)^2` while training, which keeps the logits' scale from drifting (PaLM, arXiv:2204.02311, section 5).
      loss_chunk: time steps whose logits are held at once; 0 holds [B,T,V] whole.
      text_field: which field of a raw example is the text.
    """

    tokenizer: Any
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    loss_chunk: int = 0
    text_field: str = "text"

    def example(self, raw: dict) -> dict[str, np.ndarray]:
        """Raw example -> {"tokens": int32 [T]}, with what the tokenizer puts around a text, less the end of text that the lab writes."""
        return {"tokens": marks.document(self.tokenizer, self.tokenizer.encode(raw[self.text_field]))}

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        after = marks.closing(self.tokenizer).tolist()
        return f"language_modeling 1 {self.text_field}" + (f" {after}" if after else "")

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {"tokens": np.zeros((1, 1), np.int32)}

    def forward(self, model: Any, batch: dict, deterministic: bool, return_hidden: bool = False) -> jax.Array:
        """Bound model, batch -> logits_BTV float32, or hidden_BTD for `model.unembed`."""
        extra = dict(positions_BT=batch.get("positions"), segments_BT=batch.get("segments"), return_hidden=return_hidden)
        return model(batch["tokens"], **extra, deterministic=deterministic)[0]

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)}; `rng` is the dropout key while training, None in evaluation (no dropout, plain cross-entropy)."""
        training = rng is not None
        rngs = {"dropout": rng} if training else None
        outputs = model.apply({"params": params}, batch, not training, bool(self.loss_chunk), method=self.forward, rngs=rngs)
        regularised = dict(label_smoothing=self.label_smoothing, z_loss=self.z_loss) if training else {}
        sums = cross_entropy.either_cross_entropy(
            lambda hidden_BTD: model.apply({"params": params}, hidden_BTD, method="unembed"),
            outputs,
            batch["labels"],
            batch["weights"],
            chunk=self.loss_chunk,
            **regularised,
        )
        return {"loss": (sums.loss, sums.weight), "nll": (sums.nll, sums.weight), "accuracy": (sums.correct, sums.weight)}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means -> loss (nats a token), accuracy, perplexity and, where every token is predicted, bits per byte."""
        found = {"loss": means["nll"], "accuracy": means["accuracy"], "perplexity": math.exp(min(means["nll"], 700.0))}
        if rows.num_bytes and rows.num_targets >= rows.num_tokens - 1:  # not where a packing leaves tokens unpredicted
            found["bits_per_byte"] = means["nll"] / math.log(2) * rows.num_targets / rows.num_bytes
        return found
