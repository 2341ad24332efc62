"""The shapes that are measured."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """One model (GPT-2's architecture) and the batch that it is trained on."""

    num_layers: int
    num_heads: int
    width: int
    vocab_size: int
    length: int  # T, tokens in a row
    batch_size: int  # B, rows
    large: bool = False  # scanned layers, recomputed but for the results of matrices, and the loss in chunks of 256

    @property
    def num_parameters(self) -> int:
        """Parameters of GPT-2's architecture with tied embeddings."""
        d = self.width
        return self.vocab_size * d + self.max_length * d + self.num_layers * (12 * d * d + 13 * d) + 2 * d

    @property
    def max_length(self) -> int:
        """Positions that the model has: room for the row, and for a prompt of 32 and 128 new tokens."""
        return max(self.length, 160)

    @property
    def weights_per_token(self) -> int:
        """Weights that a token is multiplied by: all but the table of positions, the tied table of tokens once, as the unembedding."""
        return self.num_parameters - self.max_length * self.width

    @property
    def flops_per_token(self) -> float:
        """FLOPs a token, forward and backward: 6 a parameter that multiplies, 12 L D T for attention (PaLM, arXiv:2204.02311, app. B)."""
        return 6 * self.weights_per_token + 12 * self.num_layers * self.width * self.length


SHAPES = {
    "small": Shape(num_layers=4, num_heads=4, width=128, vocab_size=65, length=64, batch_size=12),
    "medium": Shape(num_layers=6, num_heads=6, width=384, vocab_size=65, length=256, batch_size=16),
    "gpt2": Shape(num_layers=12, num_heads=12, width=768, vocab_size=50257, length=256, batch_size=4),
    # for an accelerator: GPT-2 and GPT-3's sizes (Brown et al. 2020, table 2.1) at their batch of one GPU of 80 GB
    "gpt2-1024": Shape(num_layers=12, num_heads=12, width=768, vocab_size=50257, length=1024, batch_size=32),
    "350m": Shape(num_layers=24, num_heads=16, width=1024, vocab_size=50257, length=1024, batch_size=32, large=True),
    "760m": Shape(num_layers=24, num_heads=16, width=1536, vocab_size=50257, length=1024, batch_size=16, large=True),
    "1.3b": Shape(num_layers=24, num_heads=16, width=2048, vocab_size=50257, length=1024, batch_size=16, large=True),
}
