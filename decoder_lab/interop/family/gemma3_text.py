"""Gemma 3 (Gemma Team 2025), the text model: five layers with a window and their own rotary base to one that sees everything."""

from decoder_lab.interop import rope
from decoder_lab.interop.family_base import Unsupported
from decoder_lab.interop.gemma_like import GemmaLike
from decoder_lab.interop.llama_like import layer_types, their_layer_types


class Family(GemmaLike):
    """Gemma3ForCausalLM."""

    model_type = "gemma3_text"
    architectures = {"Gemma3ForCausalLM": "decoder_only"}
    fixed = GemmaLike.fixed | dict(qk_norm=True)
    vocab_size = 262208
    num_positions = ("max_position_embeddings", 131072)
    theta = 1_000_000.0

    def read(self, config):
        """Two sets of rotary positions: `rope_parameters` has one for each type of layer."""
        parameters = config.get("rope_parameters") or {}
        if "full_attention" not in parameters:
            return super().read(config) | dict(local_rope_theta=float(config.get("rope_local_base_freq", 10_000.0)))
        flat = {name: value for name, value in config.items() if name != "rope_parameters"}
        local = rope.of(parameters.get("sliding_attention") or {}, 10_000.0, config)
        if local["rope_scaling"]:
            raise Unsupported("config.json of gemma3_text: rope scaling of the layers with a window is not known to this program.")
        everywhere = rope.of(parameters["full_attention"], self.theta, config)
        return super().read(flat) | everywhere | dict(local_rope_theta=local["rope_theta"])

    def variant(self, config):
        """Windows and scales."""
        types = self.alternating(config, config.get("sliding_window_pattern", 6))
        return {**layer_types({"sliding_window": 4096, **config}, types), **self.scales(config)}

    def their_variant(self, kw):
        """The reverse of `variant`, and the local rotary base."""
        local = kw["rope_theta"] if kw["local_rope_theta"] is None else kw["local_rope_theta"]
        return {**their_layer_types(kw), **self.their_scales(kw), "rope_local_base_freq": local}
