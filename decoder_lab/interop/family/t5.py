"""T5, its version 1.1 and Flan-T5 (Raffel et al. 2020; Chung et al. 2022): relative positions, no biases, a plain or a gated MLP."""

from decoder_lab.core.errors import unknown
from decoder_lab.interop import family_base as base
from decoder_lab.interop.table import EMBEDDING, LINEAR, NORM, TABLE, Table

RELATIVE = ".block.0.layer.0.SelfAttention.relative_attention_bias"
PLAIN = {"DenseReluDense.wi": ("mlp/up", LINEAR)}
GATED = {"DenseReluDense.wi_0": ("mlp/gate", LINEAR), "DenseReluDense.wi_1": ("mlp/up", LINEAR)}
MLPS = {"relu": "relu", "gelu": "gelu_exact", "silu": "silu", "gated-gelu": "geglu", "gated-silu": "swiglu"}  # feed_forward_proj -> ours


def side(theirs: str, ours: str, stack: str, cross: bool, mlp: str) -> dict:
    """Returns the modules of the encoder or the decoder."""
    layer, block = theirs + ".block.{i}.layer.", f"{ours}/{stack}/layer_{{i}}/"
    found = {theirs + RELATIVE: (f"{ours}/position_bias", TABLE), f"{theirs}.final_layer_norm": (f"{ours}/final_norm", NORM)}
    parts = [("SelfAttention", "attention"), *([("EncDecAttention", "cross_attention")] if cross else [])]
    for number, (name, our_name) in enumerate(parts):
        found[f"{layer}{number}.layer_norm"] = (f"{block}{our_name}_norm", NORM)
        for letter, projection in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
            found[f"{layer}{number}.{name}.{letter}"] = (f"{block}{our_name}/{projection}", LINEAR)
    last = f"{layer}{len(parts)}."
    found[f"{last}layer_norm"] = (f"{block}mlp_norm", NORM)
    for name, (our_name, kind) in (GATED if mlp in ("geglu", "swiglu") else PLAIN).items():
        found[last + name] = (block + our_name, kind)
    return found | {f"{last}DenseReluDense.wo": (f"{block}mlp/down", LINEAR)}


class Family(base.Family):
    """T5ForConditionalGeneration."""

    model_type = "t5"
    architectures = {"T5ForConditionalGeneration": "encoder_decoder", "T5WithLMHeadModel": "encoder_decoder", "T5Model": "encoder_decoder"}
    fields = {
        "num_layers": ("num_layers", 6),
        "num_heads": ("num_heads", 8),
        "d_kv": ("head_dim", 64),
        "d_model": ("width", 512),
        "d_ff": ("mlp_dim", 2048),
        "layer_norm_epsilon": ("norm_epsilon", 1e-6),
        "dropout_rate": ("dropout", 0.1),
    }
    fixed = dict(norm="rms", norm_position="pre", position="t5", use_bias=False, attention_scale=1.0)
    expected = dict(relative_attention_num_buckets=32, relative_attention_max_distance=128)
    vocab_size = 32128
    num_positions = ("n_positions", 512)  # positions go on: only how long texts were in training
    tokens = dict(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)

    def plugin(self, config):
        """Two sides of one shape; the logits of tied embeddings are scaled.

        Version 5 of transformers writes tie_word_embeddings=true always; there `scale_decoder_outputs` tells T5 1.1, whose logits have
        a table of their own.
        """
        self.check(config)
        kw = self.transformer(config)
        tied = config.get("tie_word_embeddings", True) and config.get("scale_decoder_outputs", True)
        depth = config.get("num_decoder_layers") or kw["num_layers"]
        above = dict(tie_embeddings=tied, logits_scale=kw["width"] ** -0.5 if tied else None)
        decoder = dict(name="transformer", kw={**kw, "num_layers": depth, **above})
        return dict(name=self.model_name(config), kw=dict(encoder=dict(name="transformer", kw=kw), decoder=decoder, share_embeddings=True))

    def read(self, config):
        """The MLP."""
        kind = config.get("feed_forward_proj", "relu")
        if kind not in MLPS:
            raise base.Unsupported(unknown("config.json: feed_forward_proj", str(kind), MLPS))
        return dict(mlp=MLPS[kind])

    def transformer_of(self, plugin):
        """The encoder's fields; the decoder's are the same, or reading it again shows that they are not."""
        if plugin["kw"].get("encoder", {}).get("name") != "transformer" or plugin["kw"]["decoder"]["name"] != "transformer":
            raise base.Unsupported("t5 has a Transformer encoder and decoder.")
        return plugin["kw"]["encoder"]["kw"] | {"decoder": plugin["kw"]["decoder"]["kw"]}

    def write(self, kw):
        """The reverse of `plugin`."""
        decoder = kw["decoder"]
        names = {ours: theirs for theirs, ours in MLPS.items()}
        return dict(
            num_decoder_layers=decoder["num_layers"],
            feed_forward_proj=names.get(kw["mlp"], kw["mlp"]),
            tie_word_embeddings=decoder["tie_embeddings"],
            is_encoder_decoder=True,
        )

    def table(self, plugin):
        """Tied weights may stand several times. A decoder of old has a bias for cross-attention that nothing reads."""
        encoder, decoder = plugin["kw"]["encoder"]["kw"], plugin["kw"]["decoder"]["kw"]
        modules = {"shared": ("token_embedding", EMBEDDING), "lm_head": ("decoder/unembedding", LINEAR)}
        modules |= side("encoder", "encoder", "stack", False, encoder["mlp"]) | side("decoder", "decoder", "decoder", True, decoder["mlp"])
        copies = {f"{name}.embed_tokens.weight": "shared.weight" for name in ("encoder", "decoder")}
        copies |= {"lm_head.weight": "shared.weight"} if decoder["tie_embeddings"] else {}
        return Table(modules, copies, ignored=(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",))

    def task(self, config, tokens):
        """Targets begin after the padding token."""
        return dict(name="sequence_to_sequence", kw=dict(start_ids=(config.get("decoder_start_token_id") or 0,)))
