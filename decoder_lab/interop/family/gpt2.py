"""GPT-2 (Radford et al. 2019): its linear layers are stored [in, out], query, key and value in one of them."""

from decoder_lab.interop import family_base as base
from decoder_lab.interop.table import CONV1D, EMBEDDING, FUSED_CONV1D, NORM, Table

LAYER = "transformer.h.{i}."
OURS = "decoder/layer_{i}/"
MODULES = {
    "transformer.wte": ("token_embedding", EMBEDDING),
    "transformer.wpe": ("position_embedding", EMBEDDING),
    LAYER + "ln_1": (OURS + "attention_norm", NORM),
    LAYER + "attn.c_attn": ((OURS + "attention/query", OURS + "attention/key", OURS + "attention/value"), FUSED_CONV1D),
    LAYER + "attn.c_proj": (OURS + "attention/out", CONV1D),
    LAYER + "ln_2": (OURS + "mlp_norm", NORM),
    LAYER + "mlp.c_fc": (OURS + "mlp/up", CONV1D),
    LAYER + "mlp.c_proj": (OURS + "mlp/down", CONV1D),
    "transformer.ln_f": ("final_norm", NORM),
}
TABLE = Table(
    MODULES,
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"\.attn\.(masked_)?bias$",),  # the causal mask
    prefix="transformer.",
)


class Family(base.Family):
    """GPT2LMHeadModel."""

    model_type = "gpt2"
    architectures = {"GPT2LMHeadModel": "decoder_only", "GPT2Model": "decoder_only"}
    fields = {
        "n_layer": ("num_layers", 12),
        "n_head": ("num_heads", 12),
        "n_embd": ("width", 768),
        "n_inner": ("mlp_dim", None),
        "layer_norm_epsilon": ("norm_epsilon", 1e-5),
        "resid_pdrop": ("dropout", 0.1),
        "attn_pdrop": ("attention_dropout", 0.1),
        "tie_word_embeddings": ("tie_embeddings", True),
    }
    fixed = dict(norm="layer", norm_position="pre", position="learned", use_bias=True)
    expected = dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False, tie_word_embeddings=True)
    vocab_size = 50257
    num_positions = ("n_positions", 1024)
    tokens = dict(bos_token_id=50256, eos_token_id=50256)

    def read(self, config):
        """Activation and positions."""
        return dict(mlp=base.activation(config, "activation_function", "gelu_new"), num_positions=self.sizes(config).num_positions)

    def write(self, kw):
        """The reverse of `read`."""
        return dict(activation_function=base.their_activation(kw["mlp"]))

    def table(self, plugin):
        """One architecture."""
        return TABLE
