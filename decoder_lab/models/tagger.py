"""A tagger of words: any encoder, characters of the words beside it, and a linear layer or a linear-chain CRF on top.

BiLSTM-CRF (Lample et al. 2016), BiLSTM-CNN-CRF (Ma & Hovy 2016) and BERT-style taggers are choices of its fields. Axis W: words.

Reads from a batch: "tokens", "segments" int32 [B,S]; "starts" int32 [B,W], where each word's first token stands; "words" int32 [B,W], 1 at
a word and 0 in padding; "chars" int32 [B,W,K], 0 in padding.
"""

import flax.linen as nn
import jax

from decoder_lab.layers.tagging import Scores, Tagger

OUTPUT = "tags"  # what it gives: a task of the same OUTPUT trains it

VARIANTS = {
    # Lample et al. 2016: characters by a BiLSTM of 25 a direction, words by one of 100 a direction, a hidden layer of 100, CRF
    "lample2016": dict(
        encoder=dict(name="recurrent", kw=dict(cell="lstm", width=100, embedding_dim=100, num_layers=1, bidirectional=True)),
        characters="lstm",
        character_dim=25,
        character_features=50,
        head_dim=100,
        crf=True,
        dropout=0.5,
    ),
    # Ma & Hovy 2016: characters by a convolution of 30 filters of width 3, words by a BiLSTM of 200 a direction, CRF
    "ma_hovy2016": dict(
        encoder=dict(name="recurrent", kw=dict(cell="lstm", width=200, embedding_dim=100, num_layers=1, bidirectional=True)),
        characters="cnn",
        character_dim=30,
        character_features=30,
        crf=True,
        dropout=0.5,
    ),
}


class Model(Tagger):
    """tokens_BS, starts_BW -> Scores."""

    variant: str = ""

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
        """Returns the scores of every word's tags; what stands where words_BW is 0 means nothing."""
        _, x_BWD = self.encode(tokens_BS, segments_BS, starts_BW, words_BW, chars_BWK, deterministic)
        return self.tag(x_BWD)

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        top = "CRF" if self.crf else "softmax"
        return f"{self.encoder['name']} encoder, characters: {self.characters}, {top} over {self.num_labels} tags"
