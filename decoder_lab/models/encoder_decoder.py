"""An encoder and a decoder joined: any of `encoders/` with any of `decoders/`, and the published models as presets.

Reads from a batch: "source", "source_segments" int32 [B, S] (segment 0 is padding), "tokens" int32 [B, T], "segments" int32 [B, T].
"""

import dataclasses
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core import calls, flops, lookup
from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Plugin
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.memory import Memory

OUTPUT = "next tokens of a target"  # what it gives: a task of the same OUTPUT trains it

VARIANTS = {
    # Bahdanau et al. 2014, RNNsearch-50 (appendix A.2.3): 80,446,000 at two vocabularies of 30,000 words
    "bahdanau2014": dict(
        encoder=dict(name="recurrent", kw=dict(cell="gru", width=1000, embedding_dim=620, bidirectional=True)),
        decoder=dict(name="recurrent", kw=dict(
            cell="gru", width=1000, embedding_dim=620, attention="additive", attention_dim=1000, context_input=True,
            bridge="backward", output="maxout", readout_dim=500,
        )),
    ),
    # Luong et al. 2015 (section 4.1), global attention with input feeding: 221,082,000 at two vocabularies of 50,000 words
    "luong2015": dict(
        encoder=dict(name="recurrent", kw=dict(width=1000, num_layers=4, reverse_source=True, dropout=0.2)),
        decoder=dict(name="recurrent", kw=dict(
            width=1000, num_layers=4, attention="general", input_feeding=True, bridge="copy", output="luong", dropout=0.2,
        )),
    ),
    # The ladder of a widely read tutorial on Multi30k, words that occur twice (German 7,853, English 5,893). LSTM: 13,890,309; 13,898,501
    # there, where torch keeps two biases a gate
    "tutorial_lstm": dict(
        encoder=dict(name="recurrent", kw=dict(width=512, embedding_dim=256, num_layers=2, reverse_source=True, dropout=0.5)),
        decoder=dict(name="recurrent", kw=dict(
            width=512, embedding_dim=256, num_layers=2, attention="none", bridge="copy", output="hidden", dropout=0.5,
        )),
    ),
    # GRU, whose decoder reads the source's summary at every step: 14,217,733 (14,219,781 with torch's second biases)
    "tutorial_gru": dict(
        encoder=dict(name="recurrent", kw=dict(cell="gru", width=512, embedding_dim=256, dropout=0.5)),
        decoder=dict(name="recurrent", kw=dict(
            cell="gru", width=512, embedding_dim=256, attention="none", context_input=True, bridge="copy", output="deep",
            dropout=0.5,
        )),
    ),
    # additive attention: 20,515,333 (20,518,405 with torch's second biases)
    "tutorial_bahdanau": dict(
        encoder=dict(name="recurrent", kw=dict(cell="gru", width=512, embedding_dim=256, bidirectional=True, dropout=0.5)),
        decoder=dict(name="recurrent", kw=dict(
            cell="gru", width=512, embedding_dim=256, attention="additive", context_input=True, bridge="linear", output="deep",
            dropout=0.5,
        )),
    ),
    # and its Transformer: 9,038,341 at length 100
    "tutorial_transformer": dict(
        encoder=dict(name="transformer", kw=dict(variant="tutorial")),
        decoder=dict(name="transformer", kw=dict(variant="tutorial")),
    ),
    # the small one for Multi30k of Wu et al. 2021 ("Good for misconceived reasons"): 2,568,192 at its joint vocabulary of 9,712
    "multi30k_tiny": dict(
        encoder=dict(name="transformer", kw=dict(variant="multi30k_tiny")),
        decoder=dict(name="transformer", kw=dict(variant="multi30k_tiny")),
        share_embeddings=True,
    ),
    # Vaswani et al. 2017 at their shared vocabulary of 37,000: 63,045,632 (65 million in table 3)
    "transformer_base": dict(
        encoder=dict(name="transformer", kw=dict(variant="transformer_base")),
        decoder=dict(name="transformer", kw=dict(variant="transformer_base")),
        share_embeddings=True,
    ),
    # 214,171,648 (213 million in table 3)
    "transformer_big": dict(
        encoder=dict(name="transformer", kw=dict(variant="transformer_big")),
        decoder=dict(name="transformer", kw=dict(variant="transformer_big")),
        share_embeddings=True,
    ),
    # T5 (Raffel et al. 2020) at its vocabulary of 32,128, sentinels included, as published: 60,506,624
    "t5-small": dict(
        encoder=dict(name="transformer", kw=dict(variant="t5-small")),
        decoder=dict(name="transformer", kw=dict(variant="t5-small")),
        share_embeddings=True,
    ),
    # 222,903,552
    "t5-base": dict(
        encoder=dict(name="transformer", kw=dict(variant="t5-base")),
        decoder=dict(name="transformer", kw=dict(variant="t5-base")),
        share_embeddings=True,
    ),
    # 737,668,096
    "t5-large": dict(
        encoder=dict(name="transformer", kw=dict(variant="t5-large")),
        decoder=dict(name="transformer", kw=dict(variant="t5-large")),
        share_embeddings=True,
    ),
    # 2,851,598,336
    "t5-3b": dict(
        encoder=dict(name="transformer", kw=dict(variant="t5-3b")),
        decoder=dict(name="transformer", kw=dict(variant="t5-3b")),
        share_embeddings=True,
    ),
    # 11,307,321,344
    "t5-11b": dict(
        encoder=dict(name="transformer", kw=dict(variant="t5-11b")),
        decoder=dict(name="transformer", kw=dict(variant="t5-11b")),
        share_embeddings=True,
    ),
    # T5 1.1 (gated MLP, an output table of its own), as published: 76,961,152
    "t5-v1.1-small": dict(
        encoder=dict(name="transformer", kw=dict(variant="t5-v1.1-small")),
        decoder=dict(name="transformer", kw=dict(variant="t5-v1.1-small")),
        share_embeddings=True,
    ),
    # 247,577,856
    "t5-v1.1-base": dict(
        encoder=dict(name="transformer", kw=dict(variant="t5-v1.1-base")),
        decoder=dict(name="transformer", kw=dict(variant="t5-v1.1-base")),
        share_embeddings=True,
    ),
    # BART (Lewis et al. 2020) at vocabulary 50,265 and length 1024: 139,417,344; published 139,420,416, with 2 more positions a side
    "bart-base": dict(
        encoder=dict(name="transformer", kw=dict(variant="bart-base")),
        decoder=dict(name="transformer", kw=dict(variant="bart-base")),
        share_embeddings=True,
    ),
    # 406,287,360 (published 406,291,456)
    "bart-large": dict(
        encoder=dict(name="transformer", kw=dict(variant="bart-large")),
        decoder=dict(name="transformer", kw=dict(variant="bart-large")),
        share_embeddings=True,
    ),
    # Marian as opus-mt-en-de, vocabulary 58,101: 73,944,309; published 74,410,496, with its two sinusoidal tables of 512 positions (not
    # learned) and without the bias of the logits (a buffer there)
    "marian": dict(
        encoder=dict(name="transformer", kw=dict(variant="marian")),
        decoder=dict(name="transformer", kw=dict(variant="marian")),
        share_embeddings=True,
    ),
}  # fmt: skip


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    if not kw["share_embeddings"]:
        return []
    widths = {}
    for side in ("encoder", "decoder"):
        inner = kw[side].get("kw") or {}
        widths[side] = inner.get("embedding_dim") or inner.get("width")
    if widths["encoder"] != widths["decoder"]:
        encoder, decoder = widths["encoder"], widths["decoder"]
        return [f"share_embeddings needs embeddings of one width, got {encoder} in the encoder and {decoder} in the decoder"]
    return []


class Model(nn.Module):
    """(source_BS, tokens_BT) -> logits_BTV, from any encoder and any decoder.

    Their parameters are below `encoder/` and `decoder/`; with `share_embeddings` one `token_embedding/` serves source and target, and the
    logits too where the decoder ties its embeddings. `variant` names a preset; every other field then overrides it.
    """

    vocab_size: int
    source_vocab_size: int
    max_length: int
    dtype: jnp.dtype
    variant: str = ""
    encoder: Plugin["encoder"] = dataclasses.field(default_factory=lambda: dict(name="transformer", kw={}))
    decoder: Plugin["decoder"] = dataclasses.field(default_factory=lambda: dict(name="transformer", kw={}))
    share_embeddings: bool = False

    def setup(self):
        # the fields have the names "encoder" and "decoder" already, the parameters shall have them too
        self._encoder = self._made("encoder", self.source_vocab_size).clone(parent=self, name="encoder")
        self._decoder = self._made("decoder", self.vocab_size).clone(parent=self, name="decoder")
        self._table = None
        if self.share_embeddings:
            if self.source_vocab_size != self.vocab_size:
                raise UserError(
                    f"share_embeddings needs one vocabulary, got {self.source_vocab_size:,} source and {self.vocab_size:,} target tokens. "
                    "Leave config.data.source_tokenizer unset, so that one tokenizer serves both sides."
                )
            decoder = self._decoder
            stddev = next(s for s in (getattr(decoder, name, None) for name in ("embedding_stddev", "init_stddev")) if s is not None)
            self._table = Embedding(self.vocab_size, _embedding_dim(decoder), stddev, self.dtype, name="token_embedding")

    @nn.nowrap
    def _made(self, kind: str, vocab_size: int) -> nn.Module:
        return lookup.make(kind, getattr(self, kind), vocab_size=vocab_size, max_length=self.max_length, dtype=self.dtype)

    def encode(
        self,
        source_BS: jax.Array,
        source_segments_BS: jax.Array | None = None,
        source_types_BS: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Memory:
        """Returns the memory of a source (segment 0 is padding), prepared for the decoder: work that is done once a source."""
        return self._decoder.prepare(self._read(source_BS, source_segments_BS, source_types_BS, deterministic))

    def _read(self, source_BS, source_segments_BS, source_types_BS, deterministic) -> Memory:
        places = dict(segments_BS=source_segments_BS, types_BS=source_types_BS)
        return self._encoder(source_BS, **places, embedding=self._table, deterministic=deterministic)

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        source_BS: jax.Array | None = None,
        source_segments_BS: jax.Array | None = None,
        source_types_BS: jax.Array | None = None,
        memory: Memory | None = None,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        cache: Any = None,
        deterministic: bool = True,
        return_hidden: bool = False,
        **more: Any,
    ):
        """Returns (logits_BTV float32, or hidden_BTD for `unembed`; cache), given the source or the memory that `encode` made of it.

        `more` are keywords that only some decoders know, such as `sampling_rate`. Errors: UserError for one that this decoder does not.
        """
        self._must_know(more)
        if (memory is None) == (source_BS is None):
            raise ValueError("an encoder-decoder reads source_BS, or the memory of it: expected one of the two")
        if memory is None:
            memory = self._read(source_BS, source_segments_BS, source_types_BS, deterministic)
        return self._decoder(
            tokens_BT,
            positions_BT=positions_BT,
            segments_BT=segments_BT,
            cache=cache,
            memory=memory,
            embedding=self._table,
            deterministic=deterministic,
            return_hidden=return_hidden,
            **more,
        )

    @nn.nowrap
    def _must_know(self, more: Any) -> None:
        known = inspect.signature(type(self._decoder).__call__).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for keyword in () if takes_any else sorted(set(more) - set(known)):
            raise UserError(f"model encoder_decoder: {calls.refusal('decoder', lookup.part(self.decoder)[0], keyword)}")

    def unembed(self, hidden_BTD: jax.Array) -> jax.Array:
        """Returns float32 logits_BTV of the hidden states that `return_hidden` gives."""
        return self._decoder.unembed(hidden_BTD, self._table)

    @nn.nowrap
    def init_cache(self, batch_size: int, max_length: int) -> Any:
        """Returns the decoder's empty cache; needs no parameters."""
        return self._made("decoder", self.vocab_size).init_cache(batch_size, max_length)

    @property
    def context_length(self) -> int | None:
        """Longest target that the decoder can read; None where it has no limit."""
        return getattr(self._made("decoder", self.vocab_size), "context_length", self.max_length)

    def flops(self, source_length: int, target_length: int) -> float:
        """Returns forward and backward FLOPs of one pair of texts: three times the matrix products of the forward pass.

        By the rule of `decoder_only`: 6 a multiplying weight, and attention over whole rows, although kernels leave out what is masked.
        """
        model = self.clone(encoder=_unfused(self.encoder), decoder=_unfused(self.decoder))
        source_1S, tokens_1T = (jax.ShapeDtypeStruct((1, size), jnp.int32) for size in (source_length, target_length))
        variables = jax.eval_shape(lambda source, tokens: model.init(jax.random.key(0), tokens, source_BS=source), source_1S, tokens_1T)
        return 3 * flops.products(lambda v, source, tokens: model.apply(v, tokens, source_BS=source)[0], variables, source_1S, tokens_1T)

    def flops_per_token(self, length: int) -> float:
        """Returns forward and backward FLOPs a token of pairs whose texts are both of `length` tokens; a token of each counts as one."""
        return self.flops(length, length) / length

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model."""
        del platform, length
        shared = ", embeddings shared" if self.share_embeddings else ""
        return f"{self.encoder['name']} encoder, {self.decoder['name']} decoder{shared}"


def _unfused(plugin: Any) -> dict:
    """Returns a Transformer whose attention is written as plain products; another part as it is."""
    name, kw = lookup.part(plugin)
    return dict(name=name, kw={**kw, "attention": "reference"} if name == "transformer" else kw)


def _embedding_dim(module: nn.Module) -> int:
    return getattr(module, "embedding_dim", None) or module.width
