"""The intent of an utterance and the slots in it, by one encoder with two heads (Liu & Lane 2016; Goo et al. 2018, without their gate).

Axis W: words. Reads from a batch, as models/tagger.py does: "tokens", "segments" int32 [B,S]; "starts", "words" int32 [B,W]; "chars" int32
[B,W,K].
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.pooling import Pooling
from decoder_lab.layers.tagging import Scores, Tagger

OUTPUT = "an intent and tags"  # what it gives: a task of the same OUTPUT trains it


class Model(Tagger, kw_only=True):
    """tokens_BS, starts_BW -> Scores with intent_BI, float32 logits of the `num_classes` intents."""

    num_classes: int
    pooling: Literal["attention", "mean", "max", "first", "last"] = "attention"
    intent_to_slots: bool = False  # the pooled vector stands beside every word's, so that the slots know of the intent

    @nn.compact
    def __call__(
        self,
        tokens_BS: jax.Array,
        *,
        segments_BS: jax.Array | None = None,
        starts_BW: jax.Array,
        words_BW: jax.Array,
        chars_BWK: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Scores:
        """Returns the scores of every word's tags and of the intents; what stands where words_BW is 0 means nothing."""
        memory, x_BWD = self.encode(tokens_BS, segments_BS, starts_BW, words_BW, chars_BWK, deterministic)
        pooled_BD = Pooling(self.pooling, dtype=self.dtype, name="pool")(memory.values_BSD, memory.segments_BS)
        pooled_BD = Dropout(self.dropout, name="intent_dropout")(pooled_BD, deterministic)
        if self.intent_to_slots:
            beside_BWD = jnp.broadcast_to(pooled_BD[:, None], (*x_BWD.shape[:2], pooled_BD.shape[-1]))
            x_BWD = jnp.concatenate([x_BWD, beside_BWD], axis=-1)
        scores = self.tag(x_BWD)
        return scores.replace(intent_BI=Linear(self.num_classes, True, 0.02, self.dtype, jnp.float32, name="intent")(pooled_BD))

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        top = "CRF" if self.crf else "softmax"
        return f"{self.encoder['name']} encoder, {self.num_classes} intents by {self.pooling} pooling, {top} over {self.num_labels} tags"
