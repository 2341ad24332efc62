"""Marian, the models of OPUS-MT (Junczys-Dowmunt et al. 2018; Tiedemann & Thottingal 2020): translation, with sinusoidal positions."""

from decoder_lab.interop.bart_like import MODULES, BartLike
from decoder_lab.interop.table import Table


class Family(BartLike):
    """MarianMTModel."""

    model_type = "marian"
    architectures = {"MarianMTModel": "encoder_decoder"}
    fixed = dict(norm="layer", norm_position="post", position="sinusoidal_paper", use_bias=True)
    expected = dict(
        tie_word_embeddings=True, normalize_before=False, normalize_embedding=False, add_final_layer_norm=False,
        static_position_embeddings=True,
    )  # fmt: skip
    above = dict(logits_bias=True)
    vocab_size = 58101
    num_positions = ("max_position_embeddings", 1024)
    tokens = dict(eos_token_id=0, pad_token_id=58100, decoder_start_token_id=58100)

    def shares(self, config):
        """Two tables only where the vocabularies differ."""
        return config.get("share_encoder_decoder_embeddings", True)

    def write(self, kw):
        """With the tables."""
        return super().write(kw) | dict(share_encoder_decoder_embeddings=kw["shared"])

    def table(self, plugin):
        """Tied weights may stand several times; positions are computed."""
        return Table(MODULES, self.copies(plugin), ignored=(r"\.embed_positions\.weight$",), prefix="model.")

    def task(self, config, tokens):
        """Targets begin after the padding token."""
        return dict(name="sequence_to_sequence", kw=dict(start_ids=(config.get("decoder_start_token_id", 58100),)))
