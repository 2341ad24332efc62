"""Mistral (Jiang et al. 2023): Llama with a sliding window in every layer, or none."""

from decoder_lab.interop.llama_like import LlamaLike


class Family(LlamaLike):
    """MistralForCausalLM."""

    model_type = "mistral"
    architectures = {"MistralForCausalLM": "decoder_only"}
    fields = LlamaLike.fields | {
        "num_key_value_heads": ("num_kv_heads", 8),
        "intermediate_size": ("mlp_dim", 14336),
        "sliding_window": ("window", 4096),
    }
    vocab_size = 32000
    num_positions = ("max_position_embeddings", 4096 * 32)
    tokens = dict(bos_token_id=1, eos_token_id=2)
