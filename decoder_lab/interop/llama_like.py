"""Llama and what has its shape: RMS norms before rotary, grouped-query attention and a gated MLP. The families differ by a few settings."""

from collections.abc import Mapping

from decoder_lab.interop import family_base as base
from decoder_lab.interop import rope
from decoder_lab.interop.table import EMBEDDING, LINEAR, NORM, Table

LAYER = "model.layers.{i}."
OURS = "decoder/layer_{i}/"
MODULES = {
    "model.embed_tokens": ("token_embedding", EMBEDDING),
    LAYER + "input_layernorm": (OURS + "attention_norm", NORM),
    LAYER + "self_attn.q_proj": (OURS + "attention/query", LINEAR),
    LAYER + "self_attn.k_proj": (OURS + "attention/key", LINEAR),
    LAYER + "self_attn.v_proj": (OURS + "attention/value", LINEAR),
    LAYER + "self_attn.q_norm": (OURS + "attention/query_norm", NORM),
    LAYER + "self_attn.k_norm": (OURS + "attention/key_norm", NORM),
    LAYER + "self_attn.o_proj": (OURS + "attention/out", LINEAR),
    LAYER + "mlp.gate_proj": (OURS + "mlp/gate", LINEAR),
    LAYER + "mlp.up_proj": (OURS + "mlp/up", LINEAR),
    LAYER + "mlp.down_proj": (OURS + "mlp/down", LINEAR),
    "model.norm": ("final_norm", NORM),
    "lm_head": ("unembedding", LINEAR),
}
BEFORE_MLP = {LAYER + "post_attention_layernorm": (OURS + "mlp_norm", NORM)}
SANDWICH = {
    LAYER + "post_attention_layernorm": (OURS + "attention_post_norm", NORM),
    LAYER + "pre_feedforward_layernorm": (OURS + "mlp_norm", NORM),
    LAYER + "post_feedforward_layernorm": (OURS + "mlp_post_norm", NORM),
}


class LlamaLike(base.Family):
    """The base of the families; each says its defaults and what it has beside."""

    fields = {
        "num_hidden_layers": ("num_layers", 32),
        "num_attention_heads": ("num_heads", 32),
        "num_key_value_heads": ("num_kv_heads", None),
        "head_dim": ("head_dim", None),
        "hidden_size": ("width", 4096),
        "intermediate_size": ("mlp_dim", 11008),
        "rms_norm_eps": ("norm_epsilon", 1e-6),
        "attention_dropout": ("attention_dropout", 0.0),
        "tie_word_embeddings": ("tie_embeddings", False),
    }
    fixed = dict(norm="rms", norm_position="pre", position="rotary", use_bias=False)
    theta = 10000.0
    activation = ("hidden_act", "silu")

    def read(self, config):
        """Activation and rotary positions."""
        return dict(mlp=base.activation(config, *self.activation, gated=True), **rope.read(config, self.theta), **self.variant(config))

    def write(self, kw):
        """The reverse of `read`."""
        return {self.activation[0]: base.their_activation(kw["mlp"]), **rope.write(kw), **self.their_variant(kw)}

    def variant(self, config: Mapping) -> dict:
        """What the family has beside: their settings to ours."""
        return {}

    def their_variant(self, kw: Mapping) -> dict:
        """The reverse of `variant`."""
        return {}

    def table(self, plugin):
        """Tied weights may stand twice; rotary frequencies are computed."""
        kw = plugin["kw"]
        modules = MODULES | (SANDWICH if kw["norm_position"] == "sandwich" else BEFORE_MLP)
        copies = {"lm_head.weight": "model.embed_tokens.weight"} if kw["tie_embeddings"] else {}
        return Table(modules, copies=copies, ignored=(r"rotary_emb\.inv_freq$",), prefix="model.")


def layer_types(config: Mapping, default: list[str]) -> dict:
    """Returns our window and global_layers for layers of two types, `sliding_attention` and `full_attention`."""
    types = config.get("layer_types") or default
    if strange := sorted(set(types) - {"sliding_attention", "full_attention"}):
        raise base.Unsupported(f"config.json: layer_types has {', '.join(strange)}, which this program does not know.")
    if len(types) != len(default):
        raise base.Unsupported(f"config.json: layer_types: got {len(types)}, expected one for each of the {len(default)} layers.")
    everywhere = tuple(i for i, kind in enumerate(types) if kind == "full_attention")
    if len(everywhere) == len(types):
        return dict(window=None, global_layers=())
    return dict(window=config["sliding_window"], global_layers=everywhere)


def their_layer_types(kw: Mapping) -> dict:
    """The reverse of `layer_types`."""
    every = kw["window"] is None
    types = ["full_attention" if every or i in kw["global_layers"] else "sliding_attention" for i in range(kw["num_layers"])]
    return dict(layer_types=types, sliding_window=kw["window"])
