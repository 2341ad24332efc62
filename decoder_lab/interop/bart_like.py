"""BART and Marian: an encoder and a decoder with norms after each part, one table of embeddings."""

from collections.abc import Mapping

from decoder_lab.interop import family_base as base
from decoder_lab.interop.table import EMBEDDING, LINEAR, NORM, POSITIONS_FROM_2, ROW

PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
PER_SIDE = {"layers": "num_layers", "attention_heads": "num_heads", "ffn_dim": "mlp_dim"}  # encoder_layers, decoder_layers, ...


def side(name: str, stack: str, cross: bool) -> dict:
    """Returns the modules of the encoder or the decoder, `name` on both sides; those that a family lacks are not expected."""
    theirs, ours = f"model.{name}.layers.{{i}}.", f"{name}/{stack}/layer_{{i}}/"
    found = {
        f"model.{name}.embed_tokens": (f"{name}/token_embedding", EMBEDDING),
        f"model.{name}.embed_positions": (f"{name}/position_embedding", POSITIONS_FROM_2),
        f"model.{name}.layernorm_embedding": (f"{name}/embedding_norm", NORM),
    }
    for attention, our_name in (("self_attn", "attention"), *([("encoder_attn", "cross_attention")] if cross else [])):
        found[f"{theirs}{attention}_layer_norm"] = (f"{ours}{our_name}_norm", NORM)
        for projection, our_projection in PROJECTIONS.items():
            found[f"{theirs}{attention}.{projection}"] = (f"{ours}{our_name}/{our_projection}", LINEAR)
    return found | {
        theirs + "fc1": (ours + "mlp/up", LINEAR),
        theirs + "fc2": (ours + "mlp/down", LINEAR),
        theirs + "final_layer_norm": (ours + "mlp_norm", NORM),
    }


MODULES = {
    "model.shared": ("token_embedding", EMBEDDING),
    **side("encoder", "stack", False),
    **side("decoder", "decoder", True),
    "lm_head": ("decoder/unembedding", LINEAR),
    "final_logits_bias": ("decoder/logits_bias", ROW),
}


class BartLike(base.Family):
    """The base of the two."""

    fields = {
        "d_model": ("width", 1024),
        "dropout": ("dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.0),
        "scale_embedding": ("scale_embeddings", False),
    }
    defaults = {"layers": 12, "attention_heads": 16, "ffn_dim": 4096}
    above = {}  # of the decoder: what follows the layers

    def plugin(self, config):
        """Two sides, whose sizes may differ."""
        self.check(config)
        kw, tied = self.transformer(config), config.get("tie_word_embeddings", True)
        sides = {}
        for name in ("encoder", "decoder"):
            sizes = {ours: config.get(f"{name}_{theirs}", self.defaults[theirs]) for theirs, ours in PER_SIDE.items()}
            sides[name] = dict(name="transformer", kw={**kw, **sizes})
        sides["decoder"]["kw"] |= dict(tie_embeddings=tied, **self.above)
        return dict(name=self.model_name(config), kw=dict(**sides, share_embeddings=self.shares(config)))

    def shares(self, config: Mapping) -> bool:
        """Whether one table of embeddings serves both sides."""
        return True

    def read(self, config):
        """The activation."""
        return dict(mlp=base.activation(config, "activation_function", "gelu"))

    def transformer_of(self, plugin):
        """The encoder's fields with the decoder's beside; what both have must be the same, or reading it again shows it."""
        kw = plugin["kw"]
        if kw.get("encoder", {}).get("name") != "transformer" or kw["decoder"]["name"] != "transformer":
            raise base.Unsupported(f"{self.model_type} has a Transformer encoder and decoder.")
        return kw["encoder"]["kw"] | {"decoder": kw["decoder"]["kw"], "shared": kw["share_embeddings"]}

    def write(self, kw):
        """The reverse of `plugin`."""
        sizes = {
            f"{name}_{theirs}": of[ours] for name, of in (("encoder", kw), ("decoder", kw["decoder"])) for theirs, ours in PER_SIDE.items()
        }
        return dict(
            **sizes,
            num_hidden_layers=kw["num_layers"],
            activation_function=base.their_activation(kw["mlp"]),
            tie_word_embeddings=kw["decoder"]["tie_embeddings"],
            is_encoder_decoder=True,
        )

    def copies(self, plugin: Mapping) -> dict[str, str]:
        """Returns the tensors that tied weights may have beside the first."""
        kw = plugin["kw"]
        found = {}
        if kw["share_embeddings"]:
            found = {f"model.{name}.embed_tokens.weight": "model.shared.weight" for name in ("encoder", "decoder")}
        if kw["decoder"]["kw"]["tie_embeddings"]:
            found["lm_head.weight"] = "model.shared.weight" if kw["share_embeddings"] else "model.decoder.embed_tokens.weight"
        return found
