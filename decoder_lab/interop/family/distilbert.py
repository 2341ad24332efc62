"""DistilBERT (Sanh et al. 2019): BERT of half the layers, without token types, with other names."""

from decoder_lab.interop.bert_like import BertLike, classes
from decoder_lab.interop.table import ARRAY, EMBEDDING, LINEAR, NORM, TRANSPOSED, Table

LAYER = "distilbert.transformer.layer.{i}."
OURS = "stack/layer_{i}/"
ENCODER = {
    "distilbert.embeddings.word_embeddings": ("token_embedding", EMBEDDING),
    "distilbert.embeddings.position_embeddings": ("position_embedding", EMBEDDING),
    "distilbert.embeddings.LayerNorm": ("embedding_norm", NORM),
    LAYER + "attention.q_lin": (OURS + "attention/query", LINEAR),
    LAYER + "attention.k_lin": (OURS + "attention/key", LINEAR),
    LAYER + "attention.v_lin": (OURS + "attention/value", LINEAR),
    LAYER + "attention.out_lin": (OURS + "attention/out", LINEAR),
    LAYER + "sa_layer_norm": (OURS + "attention_norm", NORM),
    LAYER + "ffn.lin1": (OURS + "mlp/up", LINEAR),
    LAYER + "ffn.lin2": (OURS + "mlp/down", LINEAR),
    LAYER + "output_layer_norm": (OURS + "mlp_norm", NORM),
}
HEADS = {
    "masked_lm": {
        "vocab_transform": ("transform", LINEAR),
        "vocab_layer_norm": ("transform_norm", NORM),
        "vocab_projector": ("unembedding", {"weight": ("kernel", TRANSPOSED)}),
        "vocab_projector.bias": ("logits_bias", ARRAY),
    },
    "classifier": {"pre_classifier": ("hidden", LINEAR), "classifier": ("output", LINEAR)},
    "tagger": {"classifier": ("emission", LINEAR)},
    "span_extractor": {"qa_outputs": ("span", LINEAR)},
    "dual_encoder": {},
}


class Family(BertLike):
    """DistilBertForMaskedLM, DistilBertModel, ..."""

    model_type = "distilbert"
    architectures = classes("DistilBert")
    fields = {
        "n_layers": ("num_layers", 6),
        "n_heads": ("num_heads", 12),
        "dim": ("width", 768),
        "hidden_dim": ("mlp_dim", 3072),
        "dropout": ("dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.1),
    }
    fixed = BertLike.fixed | dict(norm_epsilon=1e-12, num_types=0)
    expected = {}
    encoder = ENCODER
    heads = HEADS
    head = "relu"
    activation = "activation"

    def head_epsilon(self, config):
        """Not a setting here."""
        return 1e-12

    def head_dropout(self, config):
        """Two settings, by the head."""
        answers = self.model_name(config) == "span_extractor"
        return config.get("qa_dropout", 0.1) if answers else config.get("seq_classif_dropout", 0.2)

    def rest(self, name, modules, plugin):
        """The head for masked tokens is left out where our model has no such part."""
        tied = name == "masked_lm" and plugin["kw"]["tie_embeddings"]
        copies = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"} if tied else {}
        left_out = () if name == "masked_lm" else (r"^vocab_(transform|layer_norm|projector)\.",)
        return Table(modules, copies, ignored=(r"\.position_ids$",), left_out=left_out, prefix="distilbert.", bare=name == "dual_encoder")
