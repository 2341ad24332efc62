"""Qwen3 (Yang et al. 2025): Qwen2 without biases, with norms of queries and keys."""

from decoder_lab.interop.llama_like import LlamaLike, layer_types, their_layer_types


class Family(LlamaLike):
    """Qwen3ForCausalLM."""

    model_type = "qwen3"
    architectures = {"Qwen3ForCausalLM": "decoder_only"}
    fields = LlamaLike.fields | {
        "num_key_value_heads": ("num_kv_heads", 32),
        "head_dim": ("head_dim", 128),
        "intermediate_size": ("mlp_dim", 22016),
    }
    fixed = LlamaLike.fixed | dict(qk_norm=True)
    vocab_size = 151936
    num_positions = ("max_position_embeddings", 32768)

    def variant(self, config):
        """Biases, and the window, where it is used at all."""
        bias = config.get("attention_bias", False)
        biases = dict(qkv_bias=bias, out_bias=bias)
        if not config.get("use_sliding_window", False) or config.get("sliding_window", 4096) is None:
            return dict(window=None, **biases)
        lowest, layers = config.get("max_window_layers", 28), config.get("num_hidden_layers", 32)
        types = ["sliding_attention" if i >= lowest else "full_attention" for i in range(layers)]
        return {**layer_types({"sliding_window": 4096, **config}, types), **biases}

    def their_variant(self, kw):
        """The reverse of `variant`."""
        return dict(attention_bias=kw["qkv_bias"], use_sliding_window=kw["window"] is not None, **their_layer_types(kw))
