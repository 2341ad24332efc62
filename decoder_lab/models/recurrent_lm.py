"""A recurrent language model: the recurrent decoder without memory.

Reads from a batch: "tokens" int32 [B, T]; where rows hold several documents or padding, "segments" (1, 2, ...; 0 is padding) int32 [B, T].
"""

from decoder_lab.decoders import recurrent
from decoder_lab.ops.recurrent import GATES

OUTPUT = "next tokens"  # what it gives: a task of the same OUTPUT trains it

VARIANTS = {
    # Zaremba et al. 2014, section 4.1; with their vocabulary of 10000 and one bias a gate: 19,775,200 and 66,022,000 parameters
    "zaremba-medium": dict(cell="lstm", num_layers=2, width=650, dropout=0.5, forget_bias=0.0),
    "zaremba-large": dict(cell="lstm", num_layers=2, width=1500, dropout=0.65, forget_bias=0.0),
}


class Model(recurrent.Decoder):
    """tokens_BT -> logits_BTV. The fields of attention and bridge have no effect here, and output "luong" is "hidden"."""

    variant: str = ""

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        layers = f"{self.num_layers} layers" if self.num_layers > 1 else "1 layer"
        return f"{self.cell.upper()} of {layers}, {self.width} wide; its state carries over any length"

    def flops_per_token(self, length: int) -> float:
        """Returns forward and backward FLOPs a token, whatever the length: 6 a multiplying weight; looking up embeddings is free."""
        del length
        embedding, gates = self.embedding_dim or self.width, GATES[self.cell]
        first = gates * self.width * (embedding + self.width)
        others = (self.num_layers - 1) * gates * self.width * 2 * self.width
        readout, weights = self.width, 0
        if self.output in ("deep", "maxout"):
            readout = embedding + self.width
        if self.output == "maxout":
            weights, readout = readout * 2 * (self.readout_dim or self.width), self.readout_dim or self.width
        if self.tie_embeddings and readout != embedding:
            weights, readout = weights + readout * embedding, embedding
        return 6.0 * (first + others + weights + readout * self.vocab_size)
