"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases of query, key and value, and in some sizes a window in the upper layers."""

from decoder_lab.interop.llama_like import LlamaLike, layer_types, their_layer_types


class Family(LlamaLike):
    """Qwen2ForCausalLM."""

    model_type = "qwen2"
    architectures = {"Qwen2ForCausalLM": "decoder_only"}
    fields = LlamaLike.fields | {"num_key_value_heads": ("num_kv_heads", 32), "intermediate_size": ("mlp_dim", 22016)}
    fixed = LlamaLike.fixed | dict(qkv_bias=True, out_bias=False)
    vocab_size = 151936
    num_positions = ("max_position_embeddings", 32768)

    def variant(self, config):
        """The window, where it is used at all."""
        if not config.get("use_sliding_window", False) or config.get("sliding_window", 4096) is None:
            return dict(window=None)
        lowest, layers = config.get("max_window_layers", 28), config.get("num_hidden_layers", 32)
        types = ["sliding_attention" if i >= lowest else "full_attention" for i in range(layers)]
        return layer_types({"sliding_window": 4096, **config}, types)

    def their_variant(self, kw):
        """The reverse of `variant`."""
        return dict(use_sliding_window=kw["window"] is not None, **their_layer_types(kw))
