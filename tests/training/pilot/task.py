"""A classification small enough for tests: labels by `fit`, two ragged features of different lengths, a schedule inside the loss."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Task:
    tokenizer: Any
    length: int
    shortest: int = 0  # shorter texts are left out
    windows: int = 0  # texts are cut into pieces of so many tokens
    labels: tuple = dataclasses.field(default=(), init=False)

    batching = "examples"

    def fit(self, items):
        return {"labels": sorted({raw["label"] for raw in items})}

    def load(self, facts):
        object.__setattr__(self, "labels", tuple(facts["labels"]))

    def sizes(self):
        return {"num_labels": len(self.labels)}

    def example(self, raw):
        tokens = self.tokenizer.encode(raw["text"])
        if len(tokens) < self.shortest:
            return []
        size = self.windows or len(tokens)
        return [self._features(tokens[i : i + size], raw) for i in range(0, len(tokens), size)]

    def _features(self, tokens, raw):
        return {
            "tokens": tokens,
            "segments": np.ones(len(tokens), np.int32),
            "words": np.arange(1 + len(raw["text"].split())),
            "label": np.int32(self.labels.index(raw["label"])),
            "weights": np.float32(1),
        }

    def dummy(self):
        return {"tokens": np.zeros((1, 1), np.int32), "segments": np.ones((1, 1), np.int32)}

    def forward(self, model, batch, deterministic):
        return model(batch["tokens"], batch["segments"], deterministic)

    def metrics(self, model, params, batch, *, rng=None, progress=None):
        rngs = None if rng is None else {"dropout": rng}
        logits = model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)[:, 0]
        weights, right = batch["weights"], jnp.argmax(logits, -1) == batch["label"]
        found = {"loss": (jnp.sum(loss * weights), weights.sum()), "accuracy": (jnp.sum(right * weights), weights.sum())}
        return found if progress is None else found | {"progress": (progress, 1.0)}

    def predict(self, model, params, batch):
        return jnp.argmax(model.apply({"params": params}, batch, True, method=self.forward), -1), batch["tokens"]

    def decode(self, predictions, batch):
        numbers, tokens = predictions
        real = [row[mask > 0] for row, mask in zip(tokens, batch["segments"], strict=True)]
        return [{"label": self.labels[n], "text": self.tokenizer.decode(t)} for n, t in zip(numbers.tolist(), real, strict=True)]

    def summary(self, means, rows):
        return means

    def fingerprint(self):
        return f"pilot {self.shortest} {self.windows}"
