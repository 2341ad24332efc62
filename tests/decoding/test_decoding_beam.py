"""Beam search against exhaustive search on a tiny recurrent decoder (KNOWN_BUGS 13)."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.decoding import beam
from decoder_lab.decoding.context import Decoder
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY, Beam

V, D, LONGEST = 4, 6, 4
PROMPTS = [[1, 2, 3, 1, 2], [3], [2, 0, 0]]


def step(params, tokens_BT, positions_BT, segments_BT, cache):
    """A recurrent decoder; padding leaves its state alone."""

    def one(h_BD, inputs):
        token_B, segment_B = inputs
        h_BD = jnp.where(segment_B[:, None] > 0, jnp.tanh(h_BD @ params["w"] + params["token"][token_B]), h_BD)
        return h_BD, h_BD @ params["out"]

    h_BD, logits_TBV = jax.lax.scan(one, cache["h"], (tokens_BT.T, segments_BT.T))
    return logits_TBV.swapaxes(0, 1), {"h": h_BD, "length": cache["length"] + tokens_BT.shape[1]}


def init_cache(batch_size, num_slots):
    return {"h": jnp.zeros((batch_size, D)), "length": jnp.zeros((), jnp.int32)}


def params_of(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = {"w": (D, D), "token": (V, D), "out": (D, V)}
    return {name: 1.5 * jax.random.normal(key, shapes[name]) for key, name in zip(keys, shapes, strict=True)}


@functools.cache
def generator(eos_id=None, max_length=None) -> Generator:
    return Generator(Decoder(step, init_cache, max_length), eos_id=eos_id)


@jax.jit
def _all_logprobs(params, tokens_BT):
    return jax.nn.log_softmax(step(params, tokens_BT, None, jnp.ones_like(tokens_BT), init_cache(tokens_BT.shape[0], 0))[0])


def exhaustive(params, prompt, length, eos_id, alpha):
    """Returns every text as (score, logprob, tokens without eos, ended), best first: those that end in time, and those cut at `length`."""
    texts = np.array(list(itertools.product(range(V), repeat=length)), np.int32)
    rows = np.concatenate([np.broadcast_to(np.int32(prompt), (len(texts), len(prompt))), texts], axis=1)
    logprobs_BTV = np.asarray(_all_logprobs(params, rows))[:, len(prompt) - 1 : -1]
    picked_BT = np.take_along_axis(logprobs_BTV, texts[:, :, None], axis=2)[:, :, 0]
    found = {}
    for text, picked in zip(texts.tolist(), picked_BT, strict=True):
        used = text.index(eos_id) + 1 if eos_id in text else length
        total = float(picked[:used].sum())
        key = tuple(text[: used - (eos_id in text)]), eos_id in text
        found[key] = total / ((5 + used) / 6) ** alpha, total
    return sorted(((score, total, list(tokens), ended) for (tokens, ended), (score, total) in found.items()), key=lambda x: -x[0])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0, -1.0])
@pytest.mark.parametrize("eos_id", [None, 0])
def test_a_full_width_beam_is_exhaustive_search(eos_id, alpha):
    """Best 5 texts, scores and reasons, with and without eos, V=4, T=4, for ragged prompts in one batch and two sets of parameters."""
    for seed in (0, 1):
        params = params_of(seed)
        results = generator(eos_id).generate(params, PROMPTS, LONGEST, Beam(V**LONGEST, alpha), num_samples=5)
        for texts, prompt in zip(results, PROMPTS, strict=True):
            expected = exhaustive(params, prompt, LONGEST, eos_id, alpha)[:5]
            np.testing.assert_allclose([x.score for x in texts], [x[0] for x in expected], rtol=1e-4)
            np.testing.assert_allclose([x.logprob for x in texts], [x[1] for x in expected], rtol=1e-4)
            assert [(x.tokens, x.reason == "eos") for x in texts] == [(x[2], x[3]) for x in expected]


@pytest.mark.parametrize("eos_id", [None, 0])
def test_a_beam_of_one_is_greedy(eos_id):
    for seed in range(4):
        greedy = generator(eos_id).generate(params_of(seed), PROMPTS, 12, GREEDY)
        for [found], [expected] in zip(generator(eos_id).generate(params_of(seed), PROMPTS, 12, Beam(1)), greedy, strict=True):
            assert (found.tokens, found.reason) == (expected.tokens, expected.reason)
            np.testing.assert_allclose(found.logprob, expected.logprob, rtol=1e-4)


def test_a_row_does_not_depend_on_its_batch_and_scores_are_teacher_forced():
    """With beams that drop and reorder prefixes: batch equals single, and each score is that of the text fed to the uncached decoder."""
    params = params_of(2)
    together = generator(0).generate(params, PROMPTS, 12, Beam(3, 0.7), num_samples=3)
    for texts, prompt in zip(together, PROMPTS, strict=True):
        [alone] = generator(0).generate(params, [prompt], 12, Beam(3, 0.7), num_samples=3)
        assert [(x.tokens, x.reason) for x in texts] == [(x.tokens, x.reason) for x in alone]
        assert [x.score for x in texts] == sorted((x.score for x in texts), reverse=True)
        for text in texts:
            written = [*text.tokens, *([0] if text.reason == "eos" else [])]
            logprobs_TV = np.asarray(_all_logprobs(params, np.int32([[*prompt, *written]])))[0, len(prompt) - 1 : -1]
            total = logprobs_TV[np.arange(len(written)), written].sum()
            np.testing.assert_allclose(text.logprob, total, rtol=1e-4)
            np.testing.assert_allclose(text.score, total / ((5 + len(written)) / 6) ** 0.7, rtol=1e-4)


def reference_beam(params, prompt, length, size, eos_id, alpha):
    """The textbook loop over Python lists: no cache, no early stop."""
    live, ended = [(0.0, [])], []
    for _ in range(length):
        grown = []
        for total, tokens in live:
            logprobs = np.asarray(_all_logprobs(params, np.int32([prompt + tokens])))[0, -1]
            grown += [(total + float(logprobs[v]), [*tokens, v]) for v in range(V)]
        grown.sort(key=lambda x: -x[0])
        ended += [(total / ((5 + len(t)) / 6) ** alpha, t) for total, t in grown[:size] if t[-1] == eos_id]
        live = [x for x in grown if x[1][-1] != eos_id][:size]
    ended += [(total / ((5 + length) / 6) ** alpha, t) for total, t in live]
    return max(ended, key=lambda x: x[0])


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_early_stopping_never_changes_the_result(alpha):
    """Against a search that always goes on to the end; a large alpha makes late texts win."""
    for seed in range(3):
        params = params_of(seed)
        for prompt, [found] in zip(PROMPTS, generator(0).generate(params, PROMPTS, 7, Beam(2, alpha)), strict=True):
            score, tokens = reference_beam(params, prompt, 7, 2, 0, alpha)
            assert found.tokens == [t for t in tokens if t != 0]
            np.testing.assert_allclose(found.score, score, rtol=1e-4)


def test_early_stopping_stops():
    """A chain that ends almost surely at once needs a few steps, not a thousand."""
    calls = []

    def sure(params, tokens_BT, positions_BT, segments_BT, cache):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.broadcast_to(jnp.asarray([9.0, 0, 0, 0]), (*tokens_BT.shape, V)), cache

    result = Generator(Decoder(sure, lambda batch_size, num_slots: jnp.zeros(batch_size)), eos_id=0).generate({}, [[1]], 1000, Beam(4))
    jax.effects_barrier()
    assert (result[0][0].tokens, result[0][0].reason) == ([], "eos") and len(calls) <= 3


def test_beyond_the_maximum_all_beams_roll():
    """With a context of 4 a beam of one still equals greedy, which is tested against an uncached decoder."""
    for width in (1, 3):
        result = generator(None, 4).generate(params_of(3), PROMPTS, 11, Beam(width))
        assert all(len(texts[0].tokens) == 11 for texts in result)
    greedy = generator(None, 4).generate(params_of(3), PROMPTS, 11, GREEDY)
    assert [x[0].tokens for x in generator(None, 4).generate(params_of(3), PROMPTS, 11, Beam(1))] == [x[0].tokens for x in greedy]


def test_children_stay_with_their_parents():
    """Every child gets a row, and each parent that has children keeps one of them: then rows can be copied in place."""
    parents = np.random.default_rng(0).integers(0, 5, (200, 5))
    order = np.asarray(jax.jit(beam.stay_in_place)(parents))
    placed = np.take_along_axis(parents, order, axis=1)
    assert (np.sort(order, axis=1) == np.arange(5)).all()
    assert all(row[p] == p for row in placed for p in set(row.tolist()))
