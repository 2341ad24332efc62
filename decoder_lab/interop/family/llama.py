"""Llama 1, 2, 3.x (Touvron et al. 2023; Grattafiori et al. 2024, with its rope scaling) and whatever calls itself so."""

from decoder_lab.interop.llama_like import LlamaLike


class Family(LlamaLike):
    """LlamaForCausalLM."""

    model_type = "llama"
    architectures = {"LlamaForCausalLM": "decoder_only", "LLaMAForCausalLM": "decoder_only"}
    vocab_size = 32000
    tokens = dict(bos_token_id=1, eos_token_id=2)

    def variant(self, config):
        """Biases, which few have."""
        attention, mlp = config.get("attention_bias", False), config.get("mlp_bias", False)
        return dict(use_bias=mlp, qkv_bias=attention, out_bias=attention)

    def their_variant(self, kw):
        """The reverse of `variant`."""
        return dict(attention_bias=kw["qkv_bias"], mlp_bias=kw["use_bias"])
