"""Instruction tuning: a language model learns the assistant's turns of conversations, and to end them.

Raw item: {"messages": [{"role": "system" | "user" | "assistant", "content": str}]}, or {"source": str, "target": str} for one question and
its answer (a source's `fields` makes it of others: dict(source=("instruction", "input"), target="output")). Batch keys: tokens, segments,
labels int32 [B,T] and weights float32 [B,T], 1 where a label is of the assistant's turn, the id that ends it included; with
data.packing "packed" several conversations share a row, as segments 1, 2, ..., and "positions" restart in each.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import conversation
from decoder_lab.ops import cross_entropy

OUTPUT = "next tokens"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "perplexity")  # of evaluation


def problems(kw) -> list[str]:
    """Shares lie in [0, 1)."""
    found = [] if 0 <= kw["label_smoothing"] < 1 else [f"label_smoothing: got {kw['label_smoothing']}, expected a share in [0, 1)."]
    return found + ([] if kw["loss_chunk"] >= 0 else [f"loss_chunk: got {kw['loss_chunk']}, expected 0 (all at once) or more."])


@dataclasses.dataclass(frozen=True)
class Task:
    """Next-token prediction of what the assistant says.

    Attributes:
      tokenizer: given by the lab. Its chat template says how a conversation is written, see `data/conversation.py`.
      length: given by the lab: longest row in tokens.
      system: a system message for conversations that have none.
      template: "auto" is the tokenizer's own, or "plain" where it has none.
      too_long: "truncate" keeps the beginning of a conversation of more than `length` tokens, and leaves it out where that holds nothing of
        the assistant; "drop" leaves out all that are too long. Both are counted.
      label_smoothing: mass spread evenly over all V classes while training.
      loss_chunk: time steps whose logits are held at once; 0 holds [B,T,V] whole.
    """

    tokenizer: Any
    length: int
    system: str = ""
    template: Literal["auto", "plain"] = "auto"
    too_long: Literal["truncate", "drop"] = "truncate"
    label_smoothing: float = 0.0
    loss_chunk: int = 0

    batching = "examples"
    packable = True  # all that it reads runs along the row, and segments keep examples apart
    gold_fields = ("target", "references")
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to cut or leave out

    @functools.cached_property
    def _format(self) -> conversation.Format:
        return conversation.Format(self.tokenizer, self.template)

    @property
    def end_id(self) -> int:
        """The id that ends a turn, where generation stops."""
        return self._format.end_id

    def texts(self, raw: dict) -> Iterator[str]:
        """What `tokenizer` learns from."""
        yield from (message["content"] for message in conversation.messages_of(raw, self.system))

    def example(self, raw: dict) -> dict[str, np.ndarray] | list:
        """Raw conversation -> the features of one example; [] where it is too long, or nothing of the assistant is left."""
        encoded = self._format.encode(conversation.messages_of(raw, self.system))
        if encoded.unlearned:
            self._count("turns of the assistant not learned, as the template writes them differently later", encoded.unlearned)
        ids, turns = encoded.ids, encoded.turns
        if not turns.any():
            self._count("conversations without a turn of the assistant left out")
            return []
        whole = int(np.flatnonzero(turns)[-1]) + 1  # nothing is learned from what comes after
        if whole > self.length + 1:
            if self.too_long == "drop":
                self._count(f"conversations of more than {self.length} tokens (sequence_length) left out")
                return []
            if not turns[1 : self.length + 1].any():
                self._count(f"conversations whose first {self.length} tokens (sequence_length) hold nothing of the assistant left out")
                return []
            self._count(f"conversations of more than {self.length} tokens (sequence_length) cut at the end")
        ids, turns = ids[: min(whole, self.length + 1)], turns[: min(whole, self.length + 1)]
        return {
            "tokens": ids[:-1],
            "segments": np.ones(len(ids) - 1, np.int32),
            "labels": ids[1:],
            "weights": (turns[1:] != 0).astype(np.float32),
        }

    def _count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def prompt(self, raw: dict) -> dict:
        """Raw conversation -> what the assistant's next, or last, turn is written after."""
        messages = conversation.messages_of({k: v for k, v in raw.items() if k != "target"}, self.system)
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return {"tokens": self._format.prompt(messages), "inputs": None}

    def pair(self, raw: dict) -> dict:
        """Returns the raw item with "source" and "target", the last question and its answer, for what shows or scores them."""
        if "source" in raw:
            return raw
        *before, answer = conversation.messages_of(raw)
        if answer["role"] != "assistant" or not before:
            raise UserError("instruction: a conversation that is to be compared with what the model writes ends with the assistant's turn.")
        return {**raw, "source": before[-1]["content"], "target": answer["content"]}

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        return f"instruction 1 {self.too_long} {self.length} {self.system!r} {self._format.fingerprint()}"

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {name: np.ones((1, 1), np.int32) for name in ("tokens", "segments")}

    def forward(self, model: Any, batch: dict, deterministic: bool, return_hidden: bool = False) -> jax.Array:
        """Bound model, batch -> logits_BTV float32, or hidden_BTD for `model.unembed`."""
        where = dict(positions_BT=batch.get("positions"), segments_BT=batch["segments"], return_hidden=return_hidden)
        return model(batch["tokens"], **where, deterministic=deterministic)[0]

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)} over the assistant's tokens; `rng` is the dropout key while training, None in evaluation."""
        del progress
        rngs = None if rng is None else {"dropout": rng}
        outputs = model.apply({"params": params}, batch, rng is None, bool(self.loss_chunk), method=self.forward, rngs=rngs)
        sums = cross_entropy.either_cross_entropy(
            lambda hidden_BTD: model.apply({"params": params}, hidden_BTD, method="unembed"),
            outputs,
            batch["labels"],
            batch["weights"],
            chunk=self.loss_chunk,
            label_smoothing=0.0 if rng is None else self.label_smoothing,
        )
        return {"loss": (sums.loss, sums.weight), "nll": (sums.nll, sums.weight), "accuracy": (sums.correct, sums.weight)}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means -> loss (nats a token of the assistant), accuracy and perplexity."""
        del rows
        return {"loss": means["nll"], "accuracy": means["accuracy"], "perplexity": math.exp(min(means["nll"], 700.0))}
