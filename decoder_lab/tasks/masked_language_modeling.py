"""Masked language modelling: restore tokens that were hidden (Devlin et al. 2019).

Batch keys: tokens, labels int32 [B,T]; weights float32 [B,T] (only to tell padding); and for rows of several documents segments (0 is
padding) and positions, int32 [B,T].
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import marks
from decoder_lab.ops import corruption, cross_entropy

OUTPUT = "hidden tokens"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "perplexity")  # of evaluation


def problems(kw) -> list[str]:
    """Shares lie in [0, 1]."""
    found = []
    if not 0 < kw["rate"] < 1:
        found.append(f"rate: got {kw['rate']}, expected the share of tokens to predict, in (0, 1).")
    if min(kw["mask_share"], kw["random_share"]) < 0 or kw["mask_share"] + kw["random_share"] > 1:
        found.append(
            f"mask_share {kw['mask_share']} and random_share {kw['random_share']}: expected shares of the chosen, 1 together at most."
        )
    return found


@dataclasses.dataclass(frozen=True)
class Task:
    """15% of the tokens are to be predicted: 80% of them are shown as the mask token, 10% as a random one, 10% as they are.

    What is hidden is drawn anew at every step of training; in evaluation it follows from the row, so that every evaluation, with every
    batch size, is the same. Padding, the end of a text, what the tokenizer puts around a text and `special_ids` are
    never chosen.

    Attributes:
      tokenizer: given by the lab.
      rate: share of the tokens to predict.
      mask_share, random_share: of those, shown as the mask token, or as a random one.
      mask_id: the mask token's id where the tokenizer has one; None: one id is added above its vocabulary.
      special_ids: ids that are never chosen.
      text_field: which field of a raw example is the text.
    """

    tokenizer: Any
    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()
    text_field: str = "text"

    draws_targets = True  # in `metrics`: those of the batch are not what is predicted

    def __post_init__(self):
        if self.mask_id is not None and self.tokenizer is not None and not 0 <= self.mask_id < self.tokenizer.vocab_size:
            raise UserError(f"task.kw.mask_id: got {self.mask_id}, expected an id below {self.tokenizer.vocab_size}, or None.")

    def sizes(self) -> dict[str, int]:
        """The model's vocabulary: the tokenizer's and, where it has no mask token, one more."""
        size = self.tokenizer.vocab_size + (self.mask_id is None)
        return {"vocab_size": size, "source_vocab_size": size}

    def example(self, raw: dict) -> dict[str, np.ndarray]:
        """Raw example -> {"tokens": int32 [T]}, with what the tokenizer puts around a text, less the end of text that the lab writes."""
        return {"tokens": marks.document(self.tokenizer, self.tokenizer.encode(raw[self.text_field]))}

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        after = marks.closing(self.tokenizer).tolist()
        return f"masked_language_modeling 1 {self.text_field}" + (f" {after}" if after else "")

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        return {"tokens": np.zeros((1, 1), np.int32), "places": np.zeros((1, 1), np.int32)}

    def forward(self, model: Any, batch: dict, deterministic: bool) -> jax.Array:
        """Bound model, batch with "places" -> float32 logits_BKV of the places."""
        where = dict(segments_BS=batch.get("segments"), positions_BS=batch.get("positions"), places_BK=batch["places"])
        return model(batch["tokens"], **where, deterministic=deterministic)

    def hide(self, batch: dict, key: jax.Array | None) -> corruption.Masked:
        """Returns the batch's tokens with some hidden; `key` None is evaluation."""
        tokens_BT = jnp.asarray(batch["tokens"])
        eligible_BT = corruption.real_places(batch.get("segments"), batch["weights"])
        vocab_size = self.tokenizer.vocab_size
        mask_id = vocab_size if self.mask_id is None else self.mask_id
        around = np.concatenate(marks.around(self.tokenizer)).tolist()
        for special in dict.fromkeys((*self.special_ids, *around, mask_id, self.tokenizer.eos_id)):
            if special is not None:
                eligible_BT &= tokens_BT != special
        shares = dict(rate=self.rate, mask_share=self.mask_share, random_share=self.random_share)
        keys_B = corruption.row_keys(tokens_BT, key)
        return corruption.mask_tokens(keys_B, tokens_BT, eligible_BT, mask_id=mask_id, vocab_size=vocab_size, **shares)

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)} over the tokens to predict; `rng` seeds masks and dropout while training, None is evaluation."""
        mask_key, dropout_key = (None, None) if rng is None else jax.random.split(rng)
        masked = self.hide(batch, mask_key)
        shown = {**batch, "tokens": masked.tokens_BT, "places": masked.places_BK}
        rngs = None if rng is None else {"dropout": dropout_key}
        logits_BKV = model.apply({"params": params}, shown, rng is None, method=self.forward, rngs=rngs)
        sums = cross_entropy.cross_entropy(logits_BKV, masked.labels_BK, masked.weights_BK)
        return {"loss": (sums.loss, sums.weight), "accuracy": (sums.correct, sums.weight)}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means -> loss (nats a hidden token), accuracy and perplexity of hidden tokens."""
        return {**means, "perplexity": math.exp(min(means["loss"], 700.0))}
