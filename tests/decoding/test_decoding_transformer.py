"""The real decoder-only Transformer at toy size: the cache, the padding and the batch never change what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.decoding import context
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY, Beam, Sampling
from decoder_lab.models.decoder_only import Model

V, LONGEST = 13, 16
WINDOWS = dict(
    position="rotary", norm="rms_plus_one", norm_position="sandwich", qk_norm=True, window=3, global_layers=(1,), local_rope_theta=50.0
)
KINDS = {
    "gpt2": dict(),
    "llama": dict(num_kv_heads=1, norm="rms", position="rotary", mlp="swiglu", use_bias=False),
    "window": dict(position="alibi", window=5),
    "scanned": dict(scan_layers=True),
    "windows between": WINDOWS,
    "windows between, scanned": WINDOWS | dict(scan_layers=True),
}
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8], [4, 4, 2, 0, 1, 9, 9], [5, 0, 0, 1, 2]]  # one size when alone: fewer programs to compile


@functools.cache
def build(kind):
    """Returns (model, params, generator, uncached): the last gives the logits_V after a list of tokens."""
    model = Model(vocab_size=V, max_length=LONGEST, dtype=jnp.float32, num_layers=2, num_heads=2, width=8, init_stddev=0.5, **KINDS[kind])
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]
    forward = jax.jit(lambda params, tokens_BT: model.apply({"params": params}, tokens_BT)[0])

    def uncached(tokens):
        padded = np.int32([tokens + [0] * (LONGEST - len(tokens))])  # what comes later changes nothing in a causal decoder
        return np.asarray(forward(params, padded))[0, len(tokens) - 1]

    return model, params, Generator.from_model(model), uncached


@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_uncached_with_0_1_and_7_pads(kind):
    """KNOWN_BUGS 5, 6: logits step by step, of a left-padded batch with a cache against each row alone without."""
    _, params, generator, uncached = build(kind)
    rows = [[1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8], [8]]
    page = np.array([[0] * (8 - len(row)) + row + [3, 1, 4, 1] for row in rows], np.int32)
    start = jnp.asarray([8 - len(row) for row in rows], jnp.int32)
    state = context.begin(generator.decoder, params, page[:, :8], start, width=7, num_slots=11, copies=1, num_columns=4)
    step = jax.jit(lambda params, state: context.step_newest(generator.decoder, params, state))
    for newest in range(7, 11):
        state = state._replace(page_RW=jnp.asarray(page), newest=jnp.asarray(newest, jnp.int32))
        logits_RV, cache = step(params, state)
        state = state._replace(cache=cache)
        for row, logits_V in enumerate(logits_RV):
            np.testing.assert_allclose(logits_V, uncached(page[row, start[row] : newest + 1].tolist()), atol=2e-4)


CASES = [
    ("gpt2", GREEDY, 20),
    ("gpt2", Beam(3, 0.6), 20),
    ("llama", Beam(3, 0.6), 5),
    ("window", Sampling(top_k=5), 5),
    ("scanned", Beam(2), 5),
]


@pytest.mark.parametrize("kind, settings, num_tokens", CASES)
def test_batch_equals_single(kind, settings, num_tokens):
    """KNOWN_BUGS 5: ragged rows; with 20 tokens and a context of 16 each also rolls at its own time."""
    _, params, generator, _ = build(kind)
    together = generator.generate(params, PROMPTS, num_tokens, settings)
    for i, prompt in enumerate(PROMPTS):
        [[alone]] = generator.generate(params, [prompt], num_tokens, settings, numbers=[i])
        assert together[i][0].tokens == alone.tokens
        np.testing.assert_allclose(together[i][0].logprob, alone.logprob, rtol=1e-4)


def test_greedy_past_the_maximum_equals_the_rule_without_a_cache():
    """KNOWN_BUGS 6: a context that would exceed 16 tokens is cut to its newest 8, positions from 0."""
    _, params, generator, uncached = build("gpt2")
    for [text], prompt in zip(generator.generate(params, PROMPTS, 20, GREEDY), PROMPTS, strict=True):
        context_ = list(prompt)
        for token in text.tokens:
            context_ = context_[-(LONGEST // 2) :] if len(context_) > LONGEST else context_
            logits_V = uncached(context_)
            assert logits_V[token] >= logits_V.max() - 1e-4
            context_.append(token)


def test_generation_has_no_dropout():
    """KNOWN_BUGS 28: a model with dropout generates the same text as one without, twice."""
    model, params, generator, _ = build("gpt2")
    dropping = Generator.from_model(model.clone(dropout=0.5))
    texts = [g.generate(params, PROMPTS, 6, GREEDY) for g in (generator, dropping, dropping)]
    assert texts[0] == texts[1] == texts[2]
