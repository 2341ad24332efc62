"""RoBERTa (Liu et al. 2019): BERT whose positions begin at row 2 of their table, with one token type and another head."""

from decoder_lab.interop.bert_like import BertLike, classes, encoder
from decoder_lab.interop.table import ARRAY, LINEAR, NORM, POSITIONS_FROM_2, Table

ENCODER = encoder("roberta.", POSITIONS_FROM_2)
HEADS = {
    "masked_lm": {
        "lm_head.dense": ("transform", LINEAR),
        "lm_head.layer_norm": ("transform_norm", NORM),
        "lm_head.decoder": ("unembedding", LINEAR),
        "lm_head.bias": ("logits_bias", ARRAY),
    },
    "classifier": {"classifier.dense": ("hidden", LINEAR), "classifier.out_proj": ("output", LINEAR)},
    "tagger": {"classifier": ("emission", LINEAR)},
    "span_extractor": {"qa_outputs": ("span", LINEAR)},
    "dual_encoder": {},
}


class Family(BertLike):
    """RobertaForMaskedLM, RobertaModel, ..."""

    model_type = "roberta"
    architectures = classes("Roberta")
    expected = BertLike.expected | dict(pad_token_id=1)  # positions begin after it
    vocab_size = 50265
    num_positions = ("max_position_embeddings", 514)
    positions_before = 2
    tokens = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2)
    encoder = ENCODER
    heads = HEADS
    of_head = "gelu_exact"

    def rest(self, name, modules, plugin):
        """The pooler and the head for masked tokens are left out where our model has no such part."""
        copies = {"lm_head.decoder.bias": "lm_head.bias"} if name == "masked_lm" else {}
        if name == "masked_lm" and plugin["kw"]["tie_embeddings"]:
            copies["lm_head.decoder.weight"] = "roberta.embeddings.word_embeddings.weight"
        left_out = (r"^roberta\.pooler\.", *([] if name == "masked_lm" else [r"^lm_head\."]))
        aliases = {r"\.gamma$": ".weight", r"\.beta$": ".bias"}
        return Table(
            modules,
            copies,
            ignored=(r"\.position_ids$",),
            left_out=left_out,
            prefix="roberta.",
            bare=name == "dual_encoder",
            aliases=aliases,
        )
