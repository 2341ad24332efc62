"""Retrieval: sources and targets become vectors, near each other where they belong together.

Raw item: {"source": str, "target": str}. Batch keys: source, source_segments int32 [B,S]; tokens, segments int32 [B,T] (segment 0 is
padding); weights float32 [B], 0 in filler rows.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import marks, named_texts
from decoder_lab.ops.cross_entropy import Sums, cross_entropy

OUTPUT = "embeddings of two texts"  # of the models that it trains

NUMBERS = ("loss", "accuracy")  # of evaluation

MASKED = -1e9  # a candidate that does not count; finite, so that its gradient is


@dataclasses.dataclass(frozen=True)
class Task:
    """Each source must pick its own target among those of the batch, and each target its own source (InfoNCE, van den Oord et al. 2018;
    both directions as in CLIP, Radford et al. 2021).

    The other rows of the batch are the wrong answers, so loss and accuracy depend on how many there are: compare them only at one batch
    size, and models by the evaluator `retrieval`. Filler rows are no candidates, nor are rows whose text equals the right answer. Texts
    longer than `length` keep their beginning.

    Attributes:
      tokenizer, source_tokenizer, length: given by the lab.
    """

    tokenizer: Any
    source_tokenizer: Any
    length: int

    batching = "examples"
    rows_meet = True  # the loss of a row depends on the others: no device can compute it from rows of its own
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to cut

    def texts(self, raw: dict) -> Iterator[str]:
        """Yields what `tokenizer` is trained on."""
        yield named_texts.of(raw, "target")

    def source_texts(self, raw: dict) -> Iterator[str]:
        """Yields what `source_tokenizer` is trained on."""
        yield named_texts.of(raw, "source")

    def example(self, raw: dict) -> dict[str, np.ndarray]:
        """Raw pair -> the features of one example."""
        source = self._cut("source", self.source_tokenizer.encode(named_texts.of(raw, "source")))
        target = self._cut("target", self.tokenizer.encode(named_texts.of(raw, "target")))
        if not raw["source"].strip() or not raw["target"].strip():
            self.counts["pairs with a blank side"] = self.counts.get("pairs with a blank side", 0) + 1
        return {
            "source": source,
            "source_segments": np.ones(len(source), np.int32),
            "tokens": target,
            "segments": np.ones(len(target), np.int32),
            "weights": np.float32(1),
        }

    def extent(self, raw: dict) -> tuple[int, int]:
        """Returns the tokens of both texts, 0 where both are blank, and how many of them the model does not see."""
        sides = (("source", self.source_tokenizer), ("target", self.tokenizer))
        sizes = [(len(tokenizer.encode(named_texts.of(raw, side))), self._room(tokenizer)) for side, tokenizer in sides]
        blank = not any(raw[side].strip() for side, _ in sides)
        return (0 if blank else sum(size for size, _ in sizes)), sum(max(0, size - room) for size, room in sizes)

    def _room(self, tokenizer: Any) -> int:
        room = self.length - sum(map(len, marks.around(tokenizer)))
        if room < 1:
            raise UserError(f"retrieval: sequence_length={self.length} has no room for a token between the tokenizer's marks: raise it.")
        return room

    def _cut(self, side: str, tokens_T: np.ndarray) -> np.ndarray:
        tokenizer = self.source_tokenizer if side == "source" else self.tokenizer
        (start, end), room = marks.around(tokenizer), self._room(tokenizer)
        if len(tokens_T) > room:
            what = f"{side}s of more than {self.length} tokens (sequence_length) cut"
            self.counts[what] = self.counts.get(what, 0) + 1
        return np.concatenate([start, tokens_T[:room], end]).astype(np.int32)

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {
            name: np.ones((1, 1), np.int32) * (name.endswith("segments")) for name in ("source", "source_segments", "tokens", "segments")
        }

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        return f"retrieval 1 {self.length}"

    def forward(self, model: Any, batch: dict, deterministic: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns float32 (source_BP, target_BP, scale)."""
        segments = dict(source_segments_BS=batch["source_segments"], segments_BT=batch["segments"])
        return model(batch["source"], batch["tokens"], **segments, deterministic=deterministic)

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)}: loss, the mean of both directions; accuracy, the share of sources whose own target is nearest."""
        del progress
        source_BP, target_BP, scale = self._outputs(model, params, batch, rng)
        forth, back = info_nce(source_BP, target_BP, scale, batch)
        return {"loss": ((forth.loss + back.loss) / 2, forth.weight), "accuracy": (forth.correct, forth.weight)}

    def predict(self, model: Any, params: Any, batch: dict) -> dict[str, jax.Array]:
        """Returns {"source": unit vectors_BP, "target": unit vectors_BP}."""
        source_BP, target_BP, _ = self._outputs(model, params, batch, None)
        return {"source": source_BP, "target": target_BP}

    def decode(self, predictions: dict, batch: dict) -> list[dict]:
        """Returns one {"source": [float], "target": [float]} a row."""
        del batch
        return [
            {"source": source.tolist(), "target": target.tolist()}
            for source, target in zip(predictions["source"], predictions["target"], strict=True)
        ]

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means, within a batch."""
        del rows
        return means

    def _outputs(self, model: Any, params: Any, batch: dict, rng: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        rngs = None if rng is None else {"dropout": rng}
        return model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)


def info_nce(source_BP: jax.Array, target_BP: jax.Array, scale: jax.Array, batch: dict) -> tuple[Sums, Sums]:
    """Returns the cross-entropies of choosing the target of each source, and the source of each target, among the rows of the batch."""
    weights_B = batch["weights"]
    rows_B = jnp.arange(weights_B.shape[0])
    itself_BB = rows_B[:, None] == rows_B[None]

    def one_way(a_BP, b_BP, tokens_BS, segments_BS):
        tokens_BS = jnp.where(segments_BS != 0, tokens_BS, -1)
        same_BB = jnp.all(tokens_BS[:, None] == tokens_BS[None], axis=-1)
        candidate_BB = (~same_BB & (weights_B != 0)[None]) | itself_BB
        return cross_entropy(jnp.where(candidate_BB, scale * (a_BP @ b_BP.T), MASKED), rows_B, weights_B)

    forth = one_way(source_BP, target_BP, batch["tokens"], batch["segments"])
    return forth, one_way(target_BP, source_BP, batch["source"], batch["source_segments"])
