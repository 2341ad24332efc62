"""BERT and what has its shape: an encoder with norms after each part, under one of several heads.

| their class ends with | our model |
|---|---|
| ForMaskedLM | masked_lm |
| ForSequenceClassification | classifier: the first position through a hidden layer |
| ForTokenClassification | tagger, without a CRF |
| ForQuestionAnswering | span_extractor |
| Model | dual_encoder with one tower and no projection: the mean of all positions, of length one |
"""

from collections.abc import Mapping

from decoder_lab.core.errors import unknown
from decoder_lab.interop import family_base as base
from decoder_lab.interop.table import EMBEDDING, LINEAR, NORM, Table

HEADS = {
    "ForMaskedLM": "masked_lm",
    "ForSequenceClassification": "classifier",
    "ForTokenClassification": "tagger",
    "ForQuestionAnswering": "span_extractor",
    "Model": "dual_encoder",
}
# our model -> its fields beside the encoder
FIELDS = {
    "masked_lm": {},
    "classifier": dict(pooling="first", head="tanh"),
    "tagger": dict(characters="none", crf=False),
    "span_extractor": dict(features=False),
    "dual_encoder": dict(pooling="mean", projection_dim=0, shared=True, learn_temperature=False),
}

# problem_type of their classifiers -> kind of our task
KINDS = {"single_label_classification": "single", "multi_label_classification": "multi", "regression": "score"}


def classes(prefix: str) -> dict[str, str]:
    """Returns {their class: our model} of a family whose classes begin with `prefix`."""
    return {prefix + ending: model for ending, model in HEADS.items()}


def encoder(prefix: str, positions: Mapping) -> dict:
    """Returns the modules of BERT's encoder; ours are without the model's beginning. `positions` is the kind of their table."""
    layer, ours = prefix + "encoder.layer.{i}.", "stack/layer_{i}/"
    return {
        prefix + "embeddings.word_embeddings": ("token_embedding", EMBEDDING),
        prefix + "embeddings.position_embeddings": ("position_embedding", positions),
        prefix + "embeddings.token_type_embeddings": ("type_embedding", EMBEDDING),
        prefix + "embeddings.LayerNorm": ("embedding_norm", NORM),
        layer + "attention.self.query": (ours + "attention/query", LINEAR),
        layer + "attention.self.key": (ours + "attention/key", LINEAR),
        layer + "attention.self.value": (ours + "attention/value", LINEAR),
        layer + "attention.output.dense": (ours + "attention/out", LINEAR),
        layer + "attention.output.LayerNorm": (ours + "attention_norm", NORM),
        layer + "intermediate.dense": (ours + "mlp/up", LINEAR),
        layer + "output.dense": (ours + "mlp/down", LINEAR),
        layer + "output.LayerNorm": (ours + "mlp_norm", NORM),
    }


class BertLike(base.Family):
    """The base of the families.

    Attributes:
      encoder: modules below the encoder, `{their module: (our module, kind)}`, ours without the model's beginning.
      heads: {our model: modules of its head}.
      head: the hidden layer of a classifier.
      of_head: the activation of the masked LM's head; None: the encoder's.
    """

    fields = {
        "num_hidden_layers": ("num_layers", 12),
        "num_attention_heads": ("num_heads", 12),
        "hidden_size": ("width", 768),
        "intermediate_size": ("mlp_dim", 3072),
        "layer_norm_eps": ("norm_epsilon", 1e-12),
        "type_vocab_size": ("num_types", 2),
        "hidden_dropout_prob": ("dropout", 0.1),
        "attention_probs_dropout_prob": ("attention_dropout", 0.1),
    }
    fixed = dict(norm="layer", norm_position="post", position="learned", embedding_norm=True, use_bias=True)
    expected = dict(is_decoder=False, add_cross_attention=False)
    vocab_size = 30522
    num_positions = ("max_position_embeddings", 512)
    tokens = dict(pad_token_id=0)
    encoder = {}
    heads = {}
    head = "tanh"
    activation = "hidden_act"
    of_head = None

    def plugin(self, config):
        """The encoder inside the model for the architecture."""
        self.check(config)
        name, encoder = self.model_name(config), dict(name="transformer", kw=self.transformer(config))
        kw = dict(encoder=encoder, **FIELDS[name])
        if name == "masked_lm":
            tied = config.get("tie_word_embeddings", True)
            kw |= dict(norm_epsilon=self.head_epsilon(config), tie_embeddings=tied, activation=self.of_head or encoder["kw"]["mlp"])
        if name == "classifier":
            kw |= dict(head=self.head)
        if name in ("classifier", "tagger", "span_extractor"):
            kw |= dict(dropout=self.head_dropout(config))
        if name == "span_extractor":
            kw |= dict(token_types=bool(encoder["kw"]["num_types"] > 1))
        return dict(name=name, kw=kw)

    def head_epsilon(self, config: Mapping) -> float:
        """Returns the epsilon of the norm in the masked LM's head."""
        return config.get("layer_norm_eps", 1e-12)

    def head_dropout(self, config: Mapping) -> float:
        """Returns the dropout before a head's last layer."""
        own = config.get("classifier_dropout")
        return config.get("hidden_dropout_prob", 0.1) if own is None else own

    def check(self, config):
        """BERT of old may have relative positions."""
        super().check(config)
        if (kind := config.get("position_embedding_type", "absolute")) not in (None, "absolute"):
            raise base.Unsupported(f'config.json of {self.model_type}: position_embedding_type="{kind}" is not known to this program.')

    def read(self, config):
        """Activation and positions."""
        return dict(mlp=base.activation(config, self.activation, "gelu"), num_positions=self.sizes(config).num_positions)

    def write(self, kw):
        """The reverse of `read`."""
        return {self.activation: base.their_activation(kw["mlp"])}

    def config(self, plugin, sizes):
        """With the labels of a head, which have numbers for names."""
        found = super().config(plugin, sizes)
        if plugin["name"] == "masked_lm":
            found["tie_word_embeddings"] = plugin["kw"]["tie_embeddings"]
        if sizes.num_labels:
            found["id2label"] = {str(i): f"LABEL_{i}" for i in range(sizes.num_labels)}
        return found

    def transformer_of(self, plugin):
        """The encoder's fields."""
        encoder = plugin["kw"].get("encoder")
        if encoder is None or encoder["name"] != "transformer":
            raise base.Unsupported(f"{self.model_type} has a Transformer encoder.")
        return encoder["kw"]

    def table(self, plugin):
        """The encoder's modules, and those of the head."""
        name = plugin["name"]
        before = "target_tower/encoder/" if name == "dual_encoder" else "encoder/"
        modules = {theirs: (before + ours, kind) for theirs, (ours, kind) in self.encoder.items()}
        return self.rest(name, modules | self.heads[name], plugin)

    def rest(self, name: str, modules: Mapping, plugin: Mapping) -> Table:
        """Returns the table, with what else a file may hold."""
        raise NotImplementedError

    def task(self, config, tokens):
        """By the head."""
        name = self.model_name(config)
        if name == "masked_lm":
            special = tuple(sorted({i for i in tokens.values() if i is not None}))
            return dict(name="masked_language_modeling", kw=dict(mask_id=tokens.get("mask"), special_ids=special))
        tasks = dict(classifier="classification", tagger="tagging", span_extractor="question_answering", dual_encoder="retrieval")
        return dict(name=tasks[name], kw=dict(kind=self.kind(config)) if name == "classifier" else {})

    def kind(self, config: Mapping) -> str:
        """Returns what a classifier was trained for, as transformers tells it. Errors: UserError for a problem_type that nobody has."""
        found = config.get("problem_type") or ("regression" if self.sizes(config).num_labels == 1 else "single_label_classification")
        if found not in KINDS:
            raise base.Unsupported(unknown(f"config.json of {self.model_type}: problem_type", str(found), KINDS))
        return KINDS[found]
