"""BERT (Devlin et al. 2019), MiniLM (Wang et al. 2020), sentence encoders and everything else of this shape."""

from decoder_lab.interop.bert_like import BertLike, classes, encoder
from decoder_lab.interop.table import ARRAY, EMBEDDING, LINEAR, NORM, Table

ENCODER = encoder("bert.", EMBEDDING)
HEADS = {
    "masked_lm": {
        "cls.predictions.transform.dense": ("transform", LINEAR),
        "cls.predictions.transform.LayerNorm": ("transform_norm", NORM),
        "cls.predictions.decoder": ("unembedding", LINEAR),
        "cls.predictions.bias": ("logits_bias", ARRAY),
    },
    "classifier": {"bert.pooler.dense": ("hidden", LINEAR), "classifier": ("output", LINEAR)},
    "tagger": {"classifier": ("emission", LINEAR)},
    "span_extractor": {"qa_outputs": ("span", LINEAR)},
    "dual_encoder": {},
}
COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class Family(BertLike):
    """BertForMaskedLM, BertModel, ..."""

    model_type = "bert"
    architectures = classes("Bert") | {"BertForPreTraining": "masked_lm"}
    encoder = ENCODER
    heads = HEADS

    def rest(self, name, modules, plugin):
        """The pooler and the head for next sentences were trained with the rest, and are left out where our model has no such part."""
        copies = {}
        if name == "masked_lm":
            copies = COPIES if plugin["kw"]["tie_embeddings"] else {"cls.predictions.decoder.bias": "cls.predictions.bias"}
        left_out = (r"^cls\.seq_relationship\.", *([] if name == "classifier" else [r"^bert\.pooler\."]))
        left_out += () if name == "masked_lm" else (r"^cls\.predictions\.",)
        ignored, aliases = (r"\.position_ids$",), {r"\.gamma$": ".weight", r"\.beta$": ".bias"}
        return Table(modules, copies, ignored=ignored, left_out=left_out, prefix="bert.", bare=name == "dual_encoder", aliases=aliases)
