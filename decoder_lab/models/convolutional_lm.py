"""A gated convolutional language model (Dauphin et al. 2017): the decoder of ConvS2S without a memory.

Reads from a batch: "tokens" int32 [B, T]; where rows hold several documents or padding, "segments" (1, 2, ...; 0 is padding) and
"positions" int32 [B, T].
"""

from decoder_lab.decoders.convolutional import Decoder

OUTPUT = "next tokens"  # what it gives: a task of the same OUTPUT trains it


class Model(Decoder):
    """tokens_BT -> logits_BTV, causal, with a receptive field of `num_layers * (kernel_size - 1) + 1` tokens."""

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model: how far it sees."""
        del platform, length
        return f"{self.num_layers} gated convolutions, {self.num_layers * (self.kernel_size - 1) + 1} tokens of context"

    def flops_per_token(self, length: int) -> float:
        """Returns forward and backward FLOPs a token: 6 a multiplying weight, the table's rows as unembedding included."""
        del length
        layers = self.num_layers * self.kernel_size * self.width * 2 * self.width
        return 6.0 * (layers + 2 * self.embedding_dim * self.width + self.vocab_size * self.embedding_dim)
