"""Gemma 2 and 3: norms around attention and MLP that multiply by 1 + scale, scaled embeddings, layers with a window between others."""

from decoder_lab.interop.llama_like import LlamaLike


class GemmaLike(LlamaLike):
    """The base of the two."""

    fields = LlamaLike.fields | {
        "num_hidden_layers": ("num_layers", 26),
        "num_attention_heads": ("num_heads", 8),
        "num_key_value_heads": ("num_kv_heads", 4),
        "head_dim": ("head_dim", 256),
        "hidden_size": ("width", 2304),
        "intermediate_size": ("mlp_dim", 9216),
        "tie_word_embeddings": ("tie_embeddings", True),
    }
    fixed = dict(norm="rms_plus_one", norm_position="sandwich", position="rotary", use_bias=False, scale_embeddings=True)
    expected = dict(use_bidirectional_attention=False)
    activation = ("hidden_activation", "gelu_pytorch_tanh")
    tokens = dict(bos_token_id=2, eos_token_id=1, pad_token_id=0)
    every = 2  # each so manieth layer sees everything
    softcaps = (None, None)  # defaults, of attention and of logits

    def check(self, config):
        """`use_bidirectional_attention` is missing, false or null."""
        super().check({name: value for name, value in config.items() if name not in self.expected or value is not None})

    def scales(self, config):
        """Returns our soft caps, attention's scale and biases."""
        bias = config.get("attention_bias", False)
        return dict(
            attention_softcap=config.get("attn_logit_softcapping", self.softcaps[0]),
            logits_softcap=config.get("final_logit_softcapping", self.softcaps[1]),
            attention_scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
            qkv_bias=bias,
            out_bias=bias,
        )

    def their_scales(self, kw):
        """The reverse of `scales`."""
        scalar = kw["attention_scale"] ** -2
        return dict(
            attn_logit_softcapping=kw["attention_softcap"],
            final_logit_softcapping=kw["logits_softcap"],
            query_pre_attn_scalar=round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar,
            attention_bias=kw["qkv_bias"],
        )

    def alternating(self, config, every):
        """Returns their default of layer_types."""
        return ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(config.get("num_hidden_layers", 26))]
