"""Real models that read a source, or a prompt in both directions: what decoding writes and scores is what the uncached model says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.decoding.batches import stack
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY, Beam

V, LONGEST = 11, 16
TRANSFORMER = dict(num_layers=2, num_heads=2, width=8, init_stddev=0.5)
RECURRENT = dict(width=8, embedding_stddev=1.0)
KINDS = {
    "transformer": (dict(name="transformer", kw=TRANSFORMER), dict(name="transformer", kw=TRANSFORMER)),
    "recurrent": (
        dict(name="recurrent", kw=RECURRENT | dict(bidirectional=True)),
        dict(name="recurrent", kw=RECURRENT | dict(attention="general", input_feeding=True)),
    ),
    "mixed": (dict(name="recurrent", kw=RECURRENT), dict(name="transformer", kw=TRANSFORMER)),
    "convolutional": (
        dict(name="bag_of_embeddings", kw=dict(embedding_dim=8, embedding_stddev=1.0, num_buckets=64)),
        dict(name="convolutional", kw=dict(width=8, embedding_dim=8, num_layers=2, kernel_size=3, embedding_stddev=0.5)),
    ),
}
SOURCES = [[1, 2, 3, 4, 5], [6, 1, 8, 2, 9, 3], [7, 7, 1, 0, 5, 4, 4, 10]]  # all are padded to one size: fewer programs to compile


@functools.cache
def build(kind):
    """Returns (model, params, generator)."""
    encoder, decoder = KINDS[kind]
    given = dict(vocab_size=V, source_vocab_size=V, max_length=LONGEST, dtype=jnp.dtype("float32"))
    model = lookup.make("model", dict(name="encoder_decoder", kw=dict(encoder=encoder, decoder=decoder)), **given)
    ones = jnp.ones((1, 2), jnp.int32)
    params = jax.jit(lambda key: model.init(key, ones, source_BS=ones, source_segments_BS=ones))(jax.random.key(1))["params"]
    params = jax.tree.map(lambda p: 2 * p, params) if kind != "transformer" else params
    return model, params, Generator.from_model(model, eos_id=0)


@functools.cache
def uncached(kind):
    """Returns (source, tokens) -> logprobs_TV without a cache, a batch or padding."""
    model, params, _ = build(kind)

    @jax.jit
    def forward(source_1S, tokens_1T):
        return jax.nn.log_softmax(model.apply({"params": params}, tokens_1T, source_BS=source_1S)[0])[0]

    def padded(source, tokens):  # what follows changes nothing
        return np.asarray(forward(np.int32([source]), np.int32([tokens + [0] * (LONGEST - len(tokens))])))[: len(tokens)]

    return padded


def inputs_of(sources):
    arrays = [dict(source=np.int32(s), source_segments=np.ones(len(s), np.int32)) for s in sources]
    return stack(arrays)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [GREEDY, Beam(3, 0.6, coverage_penalty=0.2)], ids=["greedy", "beam"])
def test_texts_and_scores_are_the_uncached_models(kind, settings):
    """KNOWN_BUGS 5, 6, 13: ragged sources in one batch; the score returned is that of the scorer, and that of teacher forcing."""
    _, params, generator = build(kind)
    texts = generator.generate(params, [[0]] * 3, 8, settings, inputs=inputs_of(SOURCES))
    written = [[*x.tokens, *([0] if x.reason == "eos" else [])] for [x] in texts]
    scores = generator.score(params, [[0]] * 3, written, inputs_of(SOURCES))
    for source, [text], tokens, score in zip(SOURCES, texts, written, scores, strict=True):
        logprobs_TV = uncached(kind)(source, [0, *tokens[:-1]])
        picked_T = logprobs_TV[np.arange(len(tokens)), tokens]
        np.testing.assert_allclose([text.logprob, score], picked_T.sum(), rtol=1e-3, atol=1e-3)
        if settings is GREEDY:
            assert (picked_T >= logprobs_TV.max(axis=1) - 1e-4).all()
        [[alone]] = generator.generate(params, [[0]], 8, settings, inputs=inputs_of([source]))
        assert (alone.tokens, alone.reason) == (text.tokens, text.reason)


def test_a_prompt_read_in_both_directions_is_what_the_uncached_model_reads():
    """KNOWN_BUGS 6, 17: a decoder-only model with a bidirectional prefix, prompts of several lengths; and the prefix matters."""
    kw = dict(num_layers=2, num_heads=2, width=8, init_stddev=0.5)
    model = lookup.make("model", dict(name="decoder_only", kw=kw), vocab_size=V, max_length=LONGEST, dtype=jnp.dtype("float32"))
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]
    prompts = [[1, 2, 3, 4, 0], [5, 0], [6, 7, 8, 0]]

    @jax.jit
    def forward(tokens_1T, num_prefix):
        prefix_1T = jnp.arange(LONGEST)[None] < num_prefix
        return jax.nn.log_softmax(model.apply({"params": params}, tokens_1T, prefix_BT=prefix_1T)[0])[0]

    results = {}
    for both in (True, False):
        generator = Generator.from_model(model, bidirectional_prefix=both)
        texts = generator.generate(params, prompts, 6, GREEDY)
        results[both] = [x.logprob for [x] in texts]
        scores = generator.score(params, prompts, [x.tokens for [x] in texts])
        for prompt, [text], score in zip(prompts, texts, scores, strict=True):
            row = [*prompt, *text.tokens]
            padded = np.int32([row + [0] * (LONGEST - len(row))])
            logprobs_TV = np.asarray(forward(padded, len(prompt) - 1 if both else 0))[len(prompt) - 1 : len(row) - 1]
            picked_T = logprobs_TV[np.arange(6), text.tokens]
            assert (picked_T >= logprobs_TV.max(axis=1) - 1e-4).all()
            np.testing.assert_allclose([text.logprob, score], picked_T.sum(), rtol=1e-3)
    assert abs(results[True][0] - results[False][0]) > 1e-3
