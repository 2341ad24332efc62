"""BART (Lewis et al. 2020): learned positions that begin at row 2 of their table, a norm after the embeddings."""

from decoder_lab.interop.bart_like import MODULES, BartLike
from decoder_lab.interop.table import Table


class Family(BartLike):
    """BartForConditionalGeneration."""

    model_type = "bart"
    architectures = {"BartForConditionalGeneration": "encoder_decoder", "BartModel": "encoder_decoder"}
    fixed = dict(norm="layer", norm_position="post", position="learned", embedding_norm=True, use_bias=True)
    expected = dict(tie_word_embeddings=True, normalize_before=False, normalize_embedding=True, add_final_layer_norm=False)
    vocab_size = 50265
    num_positions = ("max_position_embeddings", 1024)
    tokens = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)

    def read(self, config):
        """The activation and positions."""
        return super().read(config) | dict(num_positions=self.sizes(config).num_positions)

    def table(self, plugin):
        """Tied weights may stand several times; the bias of the logits is a buffer that stays zero."""
        modules = {name: place for name, place in MODULES.items() if name != "final_logits_bias"}
        zeros = {"final_logits_bias": "model.shared.weight"}
        return Table(modules, self.copies(plugin), zeros, prefix="model.", left_out=(r"^(model\.)?classification_head",))

    def task(self, config, tokens):
        """A target begins after the end of text and, in most models, its own beginning, which is forced."""
        start = config.get("decoder_start_token_id", 2)
        forced = config.get("forced_bos_token_id")
        return dict(name="sequence_to_sequence", kw=dict(start_ids=(start,) if forced is None else (start, forced)))
