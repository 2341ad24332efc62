"""One model of each kind and variant that has parameters of its own, and the shapes of its parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core import lookup

B, T = 2, 6
TOKENS = np.ones((B, T), np.int32)
WORDS = {"starts_BW": np.tile(np.arange(3), (B, 1)).astype(np.int32), "words_BW": np.ones((B, 3), np.int32)}
CHARS_K = np.ones((B, T, 4), np.int32)
SMALL = dict(num_layers=2, num_heads=4, width=16)
RNN = dict(name="recurrent", kw=dict(width=8, bidirectional=True, num_layers=2))
EXPERTS = dict(num_experts=4, experts_per_token=2)


def _transformer(**kw):
    return dict(name="transformer", kw={**SMALL, **kw})


def _lm(**kw):
    return dict(name="decoder_only", kw={**SMALL, **kw})


def _pair(encoder, decoder, **kw):
    return dict(name="encoder_decoder", kw=dict(encoder=encoder, decoder=decoder, **kw))


def _rnn_decoder(**kw):
    return dict(name="recurrent", kw={"width": 8, **kw})


def _cnn(**kw):
    return dict(name="convolutional", kw=dict(embedding_dim=8, width=8, **kw))


WRITERS = {
    "gpt2": _lm(),
    "llama": _lm(num_kv_heads=2, position="rotary", norm="rms", mlp="swiglu", use_bias=False, qk_norm=True, tie_embeddings=False),
    "llama_scanned": _lm(num_kv_heads=2, position="rotary", norm="rms", mlp="swiglu", use_bias=False, scan_layers=True),
    "sandwich": _lm(norm_position="sandwich", embedding_norm=True, logits_bias=True, position="alibi"),
    "parallel": _lm(parallel_residual=True, position="t5"),
    "experts": _lm(**EXPERTS, mlp="swiglu"),
    "experts_scanned": _lm(**EXPERTS, scan_layers=True),
    **{f"score_{score}": _lm(score=score) for score in ("general", "additive", "concat")},
    "rnn": dict(name="recurrent_lm", kw=dict(cell="lstm", width=8, num_layers=2)),
    "gru": dict(name="recurrent_lm", kw=dict(cell="gru", width=8, embedding_dim=4, tie_embeddings=True)),
    "cnn": dict(name="convolutional_lm", kw=dict(width=8, num_layers=2)),
    "transformer_pair": _pair(_transformer(position="t5"), _transformer(position="t5")),
    "transformer_pair_scanned": _pair(_transformer(scan_layers=True), _transformer(scan_layers=True, score="additive")),
    "transformer_pair_local": _pair(_transformer(), _transformer(cross_window=2, cross_predict_centre=True, scan_layers=True)),
    "shared_pair": _pair(_transformer(), _transformer(), share_embeddings=True),
    "rnn_pair": _pair(RNN, _rnn_decoder(attention="additive", output="luong", input_feeding=True)),
    "rnn_pair_maxout": _pair(RNN, _rnn_decoder(attention="general", output="maxout", bridge="backward", context_input=True, cell="gru")),
    "rnn_pair_local": _pair(RNN, _rnn_decoder(attention="concat", output="deep", window=2, predict_centre=True, attention_heads=2)),
    "rnn_pair_dot": _pair(_transformer(), _rnn_decoder(width=16, attention="dot")),
    "cnn_pair": _pair(_cnn(style="stack", num_layers=2), dict(name="convolutional", kw=dict(embedding_dim=8, width=8, num_layers=2))),
}
READERS = {
    "bag_classifier": dict(name="classifier", kw=dict(encoder=dict(name="bag_of_embeddings", kw=dict(embedding_dim=8, num_buckets=15)))),
    "kim_classifier": dict(name="classifier", kw=dict(encoder=_cnn(filters=4), pooling="max")),
    "rnn_classifier": dict(
        name="classifier", kw=dict(encoder=RNN, pooling="attention", head="tanh", character_dim=4, character_buckets=15)
    ),
    "bert_classifier": dict(name="classifier", kw=dict(encoder=_transformer(num_types=2, embedding_norm=True, norm_position="post"))),
    "decoder_classifier": dict(name="decoder_classifier", kw=dict(decoder=_transformer())),
    "masked_lm": dict(name="masked_lm", kw=dict(encoder=_transformer())),
    "masked_rnn": dict(name="masked_lm", kw=dict(encoder=RNN)),
}
OTHERS = {
    "tagger": dict(name="tagger", kw=dict(encoder=RNN, crf=True, characters="cnn")),
    "intent_slots": dict(name="intent_slots", kw=dict(encoder=RNN, intent_to_slots=True)),
    "span_extractor": dict(name="span_extractor", kw=dict(encoder=_transformer(num_types=2))),
    "bidaf": dict(name="bidaf", kw=dict(embedding_dim=8, width=4, characters="cnn", character_features=4, features=True)),
    "dual_encoder": dict(name="dual_encoder", kw=dict(encoder=dict(name="bag_of_embeddings", kw=dict(embedding_dim=8)), projection_dim=4)),
}
MODELS = WRITERS | READERS | OTHERS


@functools.cache
def shapes(name, vocab_size=16):
    """Returns the shapes of a model's parameters."""
    given = dict(vocab_size=vocab_size, source_vocab_size=vocab_size, char_vocab_size=8, num_labels=3, num_classes=4)
    model = lookup.make("model", MODELS[name], **given, max_length=8, dtype=jnp.float32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), TOKENS, **_arguments(name))["params"])


def _arguments(name):
    kind = MODELS[name]["name"]
    if kind == "encoder_decoder":
        return dict(source_BS=TOKENS)
    if kind == "tagger":
        return dict(**WORDS, chars_BWK=CHARS_K[:, :3])
    if kind == "intent_slots":
        return WORDS
    if kind in ("span_extractor", "bidaf"):
        return dict(segments_BS=TOKENS, types_BS=TOKENS * 0, question_BQ=TOKENS, chars_BSK=CHARS_K)
    if kind == "dual_encoder":
        return dict(tokens_BT=TOKENS)
    if name == "rnn_classifier":
        return dict(chars_BSK=CHARS_K)
    return {}
