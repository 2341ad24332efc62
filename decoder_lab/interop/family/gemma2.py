"""Gemma 2 (Gemma Team 2024): every second layer has a window; soft caps of attention and logits."""

from decoder_lab.interop.gemma_like import GemmaLike
from decoder_lab.interop.llama_like import layer_types, their_layer_types


class Family(GemmaLike):
    """Gemma2ForCausalLM."""

    model_type = "gemma2"
    architectures = {"Gemma2ForCausalLM": "decoder_only"}
    vocab_size = 256000
    num_positions = ("max_position_embeddings", 8192)
    softcaps = (50.0, 30.0)

    def variant(self, config):
        """Windows and scales."""
        return {**layer_types({"sliding_window": 4096, **config}, self.alternating(config, 2)), **self.scales(config)}

    def their_variant(self, kw):
        """The reverse of `variant`."""
        return {**their_layer_types(kw), **self.their_scales(kw)}
