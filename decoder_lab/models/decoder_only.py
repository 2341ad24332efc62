"""A decoder-only Transformer whose known variants (GPT-2, Llama, ...) are combinations of its fields.

Reads from a batch: "tokens" int32 [B, T]; where rows hold several documents or padding, "segments" (1, 2, ...; 0 is padding) and
"positions" int32 [B, T].
"""

from decoder_lab.decoders.transformer import Decoder
from decoder_lab.layers import transformer_parts as parts
from decoder_lab.layers.mlp import GATED
from decoder_lab.ops import attention_kernels

OUTPUT = "next tokens"  # what it gives: a task of the same OUTPUT trains it

VARIANTS = {
    # GPT-2 (Radford et al. 2019); parameter counts are exact at vocabulary 50257 and length 1024: 124,439,808
    "gpt2": dict(num_layers=12, num_heads=12, width=768),
    "gpt2-medium": dict(num_layers=24, num_heads=16, width=1024),  # 354,823,168
    "gpt2-large": dict(num_layers=36, num_heads=20, width=1280),  # 774,030,080
    "gpt2-xl": dict(num_layers=48, num_heads=25, width=1600),  # 1,557,611,200
    # nanoGPT's two recipes for tiny shakespeare (65 characters): length 256 has 10,745,088 parameters, length 64 has 804,096
    "nanogpt_char": dict(num_layers=6, num_heads=6, width=384, use_bias=False, mlp="gelu_exact"),
    "nanogpt_cpu": dict(num_layers=4, num_heads=4, width=128, use_bias=False, mlp="gelu_exact"),
    # Llama-like. tiny: ours, for tests and laptops
    "llama-tiny": dict(
        num_layers=4, num_heads=4, num_kv_heads=2, width=128, mlp_dim=352, norm="rms", position="rotary", mlp="swiglu", use_bias=False
    ),
    # JackFram/llama-160m: 162,417,408 with its vocabulary of 32000
    "llama-160m": dict(
        num_layers=12, num_heads=12, width=768, mlp_dim=3072, norm="rms", norm_epsilon=1e-6, position="rotary", mlp="swiglu",
        use_bias=False, tie_embeddings=False,
    ),
    # Llama 3.2 1B: 1,235,814,400 with its vocabulary of 128256
    "llama-1b": dict(
        num_layers=16, num_heads=32, num_kv_heads=8, width=2048, mlp_dim=8192, norm="rms", position="rotary", rope_theta=500000.0,
        rope_scaling={"type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_length": 8192},
        mlp="swiglu", use_bias=False,
    ),
    # Llama 2 7B: 6,738,415,616 with its vocabulary of 32000
    "llama-7b": dict(
        num_layers=32, num_heads=32, width=4096, mlp_dim=11008, norm="rms", position="rotary", mlp="swiglu", use_bias=False,
        tie_embeddings=False, scan_layers=True,
    ),
    # Llama 3 8B: 8,030,261,248 with its vocabulary of 128256
    "llama-8b": dict(
        num_layers=32, num_heads=32, num_kv_heads=8, width=4096, mlp_dim=14336, norm="rms", position="rotary", rope_theta=500000.0,
        mlp="swiglu", use_bias=False, tie_embeddings=False, scan_layers=True,
    ),
    # Mixtral 8x7B: 46,702,792,704 with its vocabulary of 32000, of which a token uses 12.9 billion
    "mixtral-8x7b": dict(
        num_layers=32, num_heads=32, num_kv_heads=8, width=4096, mlp_dim=14336, norm="rms", position="rotary", rope_theta=1000000.0,
        mlp="swiglu", num_experts=8, experts_per_token=2, use_bias=False, tie_embeddings=False, scan_layers=True,
    ),
}  # fmt: skip


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    from decoder_lab.layers import transformer_problems  # needs no JAX

    rest = {**kw, "cross_window": None, "cross_predict_centre": False}
    return transformer_problems.of_no_source(kw) + transformer_problems.of_decoder(rest)


class Model(Decoder):
    """tokens_BT -> logits_BTV, causal: the Transformer decoder without a memory. `variant` names a preset; other fields override it."""

    reads_memory = False  # there is nothing to be read: no cross-attention

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model: the attention implementation really used for documents of `length` tokens."""
        used = dict(softcap=self.attention_softcap, dropout_rate=self.attention_dropout, head_dim=parts.head_dim(self))
        used |= dict(num_queries=length, num_keys=length, masked=self.position in ("alibi", "t5"))
        kernel = attention_kernels.resolve(self.attention, platform=platform, dtype=self.dtype, **used)
        return f"attention {kernel}, {self.num_layers} layers {'scanned' if self.scan_layers else 'unrolled'}"

    def flops_per_token(self, length: int) -> float:
        """Returns forward and backward FLOPs a token in rows of `length`: 6 a multiplying weight, 12 L N H T for attention (PaLM, B)."""
        heads, kv_heads = self.num_heads * parts.head_dim(self), (self.num_kv_heads or self.num_heads) * parts.head_dim(self)
        mlp = (3 if self.mlp in GATED else 2) * self.width * parts.mlp_dim(self)
        if self.num_experts:  # those that a token goes to, and the router
            mlp = self.experts_per_token * mlp + self.width * self.num_experts
        layer = self.width * (2 * heads + 2 * kv_heads) + mlp
        return 6.0 * (self.num_layers * layer + self.vocab_size * self.width) + 12.0 * self.num_layers * heads * length
