"""Decoding with a source: a tiny recurrent decoder with attention over an encoded source, against enumeration and a plain loop."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.decoding import attention_weights
from decoder_lab.decoding.context import Decoder
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY, SAMPLING, Beam, Sampling
from decoder_lab.layers.memory import Memory

V, D, LONGEST = 4, 6, 4
SOURCES = [[1, 2, 3], [3], [2, 2, 0, 1, 3]]
PROMPTS = [[0], [0, 2], [0]]


def encode(params, inputs):
    """Values depend on token and place only; what stands in padding is garbage on purpose."""
    places_S = jnp.arange(inputs["source"].shape[1])
    values_BSD = params["source"][inputs["source"]] + jnp.sin(places_S[:, None] * jnp.arange(1, D + 1) / 2)[None]
    return Memory(jnp.where(inputs["source_segments"][:, :, None] > 0, values_BSD, 1e3), inputs["source_segments"])


def attend(params, tokens_BT, positions_BT, segments_BT, cache, memory):
    """(logits_BTV, cache, weights_BTS) of a recurrent decoder; padding leaves its state alone."""

    def one(h_BD, inputs):
        token_B, segment_B = inputs
        logits_BS = jnp.einsum("BD,BSD->BS", h_BD @ params["query"] + params["token"][token_B], memory.values_BSD)
        weights_BS = jax.nn.softmax(jnp.where(memory.segments_BS > 0, logits_BS, -jnp.inf), axis=1)
        context_BD = jnp.einsum("BS,BSD->BD", weights_BS, jnp.where(memory.segments_BS[:, :, None] > 0, memory.values_BSD, 0.0))
        new_BD = jnp.tanh(h_BD @ params["w"] + params["token"][token_B] + context_BD)
        h_BD = jnp.where(segment_B[:, None] > 0, new_BD, h_BD)
        return h_BD, (h_BD @ params["out"], weights_BS)

    h_BD, (logits_TBV, weights_TBS) = jax.lax.scan(one, cache["h"], (tokens_BT.T, segments_BT.T))
    cache = {"h": h_BD, "length": cache["length"] + tokens_BT.shape[1]}
    return logits_TBV.swapaxes(0, 1), cache, weights_TBS.swapaxes(0, 1)


def step(*arguments, memory):
    return attend(*arguments, memory)[:2]


def init_cache(batch_size, num_slots):
    return {"h": jnp.zeros((batch_size, D)), "length": jnp.zeros((), jnp.int32)}


def params_of(seed):
    keys = jax.random.split(jax.random.key(seed), 5)
    shapes = {"w": (D, D), "query": (D, D), "token": (V, D), "source": (V, D), "out": (D, V)}
    return {name: jax.random.normal(key, shapes[name]) for key, name in zip(keys, shapes, strict=True)}


@functools.cache
def generator(eos_id=0, max_length=None) -> Generator:
    return Generator(Decoder(step, init_cache, max_length, encode=encode, attend=_by_name), eos_id=eos_id)


def _by_name(*arguments, memory):
    return attend(*arguments, memory)


def inputs_of(sources, left=0):
    """Padded with a wild id, `left` of it on the left."""
    longest = max(map(len, sources)) + left
    arrays = {"source": np.full((len(sources), longest), 2, np.int32), "source_segments": np.zeros((len(sources), longest), np.int32)}
    for row, source in enumerate(sources):
        arrays["source"][row, : len(source)], arrays["source_segments"][row, : len(source)] = source, 1
    return arrays


@functools.partial(jax.jit, static_argnames="size")
def _forward(params, tokens_BT, inputs, size):
    memory = encode(params, inputs)
    logits_BTV, _, weights_BTS = attend(params, tokens_BT, None, jnp.ones_like(tokens_BT), init_cache(size, 0), memory)
    return jax.nn.log_softmax(logits_BTV), weights_BTS


def forward(params, source, rows):
    """(logprobs_BTV, weights_BTS) of rows of tokens that share a source, alone and unpadded."""
    rows = np.int32(rows)
    return [np.asarray(x) for x in _forward(params, rows, inputs_of([source] * len(rows)), len(rows))]


def exhaustive(params, source, prompt, settings, eos_id=0):
    """Every text as (score, logprob, tokens, ended), best first, scored by the definitions of `Beam`."""
    texts = np.array(list(itertools.product(range(V), repeat=LONGEST)), np.int32)
    logprobs_BTV, weights_BTS = forward(params, source, [[*prompt, *text] for text in texts])
    begin, found = len(prompt) - 1, {}
    for text, logprobs_TV, weights_TS in zip(texts.tolist(), logprobs_BTV, weights_BTS, strict=True):
        ended = eos_id in text
        used = text.index(eos_id) + 1 if ended else LONGEST
        if ended and used - 1 < settings.min_tokens:
            continue
        total = float(logprobs_TV[begin + np.arange(used), text[:used]].sum())
        norm = ((5 + used) / 6 if settings.length_norm == "gnmt" else used) ** settings.length_penalty
        covered_S = weights_TS[begin : begin + used].sum(axis=0)
        term = settings.coverage_penalty * np.log(np.minimum(covered_S, 1.0)).sum()
        found[tuple(text[: used - ended]), ended] = total / norm + term, total
    return sorted(((score, total, list(tokens), ended) for (tokens, ended), (score, total) in found.items()), key=lambda x: -x[0])


@pytest.mark.parametrize(
    "settings",
    [
        Beam(V**LONGEST),
        Beam(V**LONGEST, 1.0, "power", min_tokens=2),
        Beam(V**LONGEST, 0.6, coverage_penalty=0.4),
    ],
    ids=["plain", "power", "coverage"],
)
def test_a_full_width_beam_is_exhaustive_search(settings):
    """KNOWN_BUGS 13: sources and prompts of several lengths in one batch; norms, coverage penalty and shortest length by definition."""
    params = params_of(1)
    results = generator().generate(params, PROMPTS, LONGEST, settings, num_samples=4, inputs=inputs_of(SOURCES))
    for texts, prompt, source in zip(results, PROMPTS, SOURCES, strict=True):
        expected = exhaustive(params, source, prompt, settings)[:4]
        np.testing.assert_allclose([x.score for x in texts], [x[0] for x in expected], rtol=2e-4)
        assert [(x.tokens, x.reason == "eos") for x in texts] == [(x[2], x[3]) for x in expected]


def test_a_coverage_penalty_changes_what_wins():
    """Otherwise the test above would show nothing."""
    winners = {
        beta: [exhaustive(params_of(1), s, p, Beam(2, 0.6, coverage_penalty=beta))[0][2] for s, p in zip(SOURCES, PROMPTS, strict=True)]
        for beta in (0.0, 0.4)
    }
    assert winners[0.0] != winners[0.4]


@pytest.mark.parametrize(
    "settings",
    [GREEDY, Sampling(temperature=1.3, top_k=3, min_tokens=2), Beam(3, 0.7), Beam(3, 0.7, coverage_penalty=0.3)],
    ids=["greedy", "sampling", "beam", "coverage"],
)
def test_a_row_does_not_depend_on_its_batch_and_scores_are_teacher_forced(settings):
    """KNOWN_BUGS 13: alone or in a batch, sources padded more or less; the score is what the scorer says of the text."""
    params, num = params_of(2), 2
    together = generator().generate(params, PROMPTS, 9, settings, seed=5, num_samples=num, inputs=inputs_of(SOURCES, left=6))
    for i, (texts, prompt, source) in enumerate(zip(together, PROMPTS, SOURCES, strict=True)):
        [alone] = generator().generate(params, [prompt], 9, settings, seed=5, num_samples=num, numbers=[i], inputs=inputs_of([source]))
        assert [(x.tokens, x.reason) for x in texts] == [(x.tokens, x.reason) for x in alone]
        written = [[*x.tokens, *([0] if x.reason == "eos" else [])] for x in texts]
        scores = generator().score(params, [prompt] * len(texts), written, inputs_of([source] * len(texts)))
        np.testing.assert_allclose([x.logprob for x in texts], scores, rtol=1e-4)
        for tokens, score in zip(written, scores, strict=True):
            logprobs_TV = forward(params, source, [[*prompt, *tokens]])[0][0, len(prompt) - 1 : -1]
            np.testing.assert_allclose(score, logprobs_TV[np.arange(len(tokens)), tokens].sum(), rtol=1e-4)


def test_scores_of_ragged_texts_in_one_call():
    params, targets = params_of(3), [[1, 2, 0], [3], [2, 2, 2, 2, 0]]
    together = generator().score(params, PROMPTS, targets, inputs_of(SOURCES))
    for prompt, source, target, score in zip(PROMPTS, SOURCES, targets, together, strict=True):
        [alone] = generator().score(params, [prompt], [target], inputs_of([source]))
        np.testing.assert_allclose(score, alone, rtol=1e-5)


def test_a_source_is_encoded_once_and_outlives_a_context_that_rolls():
    """With a longest context of 4 generation goes on with the same source, as an uncached decoder of the newest half would."""
    calls = []

    def counting(params, inputs):
        jax.debug.callback(lambda: calls.append(1))
        return encode(params, inputs)

    params = params_of(4)
    rolling = Generator(Decoder(step, init_cache, 4, encode=counting), eos_id=None)
    results = rolling.generate(params, PROMPTS, 11, GREEDY, inputs=inputs_of(SOURCES))
    jax.effects_barrier()
    assert len(calls) == 1
    for [text], prompt, source in zip(results, PROMPTS, SOURCES, strict=True):
        context = list(prompt)
        for token in text.tokens:
            context = context[-2:] if len(context) > 4 else context
            assert token == int(forward(params, source, [context])[0][0, -1].argmax())
            context.append(token)


@pytest.mark.parametrize("settings", [GREEDY, SAMPLING, Beam(2)], ids=["greedy", "sampling", "beam"])
def test_no_text_is_shorter_than_asked_and_logprobs_stay_the_models_own(settings):
    """A model that ends at once: with min_tokens 3 eos is refused three times, and nothing else becomes more probable by that."""

    def eager(params, tokens_BT, positions_BT, segments_BT, cache):
        return jnp.broadcast_to(jnp.asarray([5.0, 1, 0, 0]), (*tokens_BT.shape, V)), cache

    made = Generator(Decoder(eager, lambda batch_size, num_slots: jnp.zeros(batch_size)), eos_id=0)
    assert len(made.generate({}, [[1]], 9, GREEDY)[0][0].tokens) == 0
    [[text]] = made.generate({}, [[1]], 9, dataclasses.replace(settings, min_tokens=3))
    assert len(text.tokens) >= 3 and text.reason == "eos"
    logprobs_V = np.asarray(jax.nn.log_softmax(jnp.asarray([5.0, 1, 0, 0])))
    np.testing.assert_allclose(text.logprob, logprobs_V[[*text.tokens, 0]].sum(), rtol=1e-5)


def test_a_prefix_reads_both_ways_and_rolls_with_the_context():
    """All tokens of a prompt but its last are marked in a prefill and in no other call; so are they in scoring."""
    marks = []

    def recording(params, tokens_BT, positions_BT, segments_BT, cache, prefix_BT=None):
        if prefix_BT is not None:
            jax.debug.callback(lambda *found: marks.append([np.asarray(x).tolist() for x in found]), tokens_BT, prefix_BT)
        return jax.nn.one_hot((tokens_BT + 1) % V, V) * 9, cache

    def made(max_length):
        decoder = Decoder(recording, lambda batch_size, num_slots: jnp.zeros(batch_size), max_length, bidirectional_prefix=True)
        return Generator(decoder)

    made(None).generate({}, [[3, 1, 2], [1, 2]], 3, GREEDY)
    jax.effects_barrier()
    assert marks == [[[[0, 3, 1], [0, 0, 1]], [[False, True, True], [False, False, True]]]]
    marks.clear()
    made(4).generate({}, [[3, 1, 2, 3]], 2, GREEDY)  # the first new token finds the context full: its newest half is 3 and itself
    jax.effects_barrier()
    assert marks[0] == [[[3, 1, 2]], [[True, True, True]]] and marks[1] == [[[3]], [[False]]]
    marks.clear()
    made(None).score({}, [[3, 1, 2], [1]], [[1, 2], [3, 3]])
    jax.effects_barrier()
    prefix = np.array(marks[0][1])
    assert prefix.sum() == 2 and prefix[0, -4:].tolist() == [True, True, False, False]


def test_errors_say_what_is_missing():
    with pytest.raises(UserError, match="reads a source"):
        generator().generate(params_of(0), PROMPTS, 3)
    with pytest.raises(UserError, match="source has 1 rows.*3 prompts"):
        generator().generate(params_of(0), PROMPTS, 3, inputs=inputs_of(SOURCES[:1]))
    blind = Generator(Decoder(step, init_cache, encode=encode), eos_id=0)
    with pytest.raises(UserError, match="no attention to a source"):
        blind.generate(params_of(0), PROMPTS, 3, Beam(2, coverage_penalty=0.1), inputs=inputs_of(SOURCES))
    with pytest.raises(UserError, match="5 tokens: expected at most 4"):
        generator(0, 3).score(params_of(0), [[0]], [[1, 2, 3, 0]], inputs_of([[1]]))
    with pytest.raises(UserError, match="no attention to its source"):
        attention_weights.to_source({})


def test_weights_are_found_layer_by_layer():
    """Unrolled layers in their order (10 behind 9), scanned ones apart; a recurrent decoder's attention is to its source."""
    sown = {f"layer_{i}": {"cross_attention": {"weights": (jnp.full((1, 2, 3, 4), i),)}} for i in range(11)}
    sown["layer_0"]["attention"] = {"weights": (jnp.full((1, 2, 3, 3), 7),)}
    assert [int(w.max()) for _, w in attention_weights.by_layer(sown, True)] == list(range(11))
    assert [name for name, _ in attention_weights.by_layer(sown, False)] == ["layer_0/attention"]
    scanned = {"layers": {"cross_attention": {"weights": (jnp.arange(3.0)[:, None, None, None, None] * jnp.ones((3, 1, 2, 3, 4)),)}}}
    assert [float(w.max()) for _, w in attention_weights.by_layer(scanned, True)] == [0, 1, 2]
    assert attention_weights.to_source(scanned).shape == (1, 3, 4)
    assert len(attention_weights.by_layer({"attention": {"weights": (jnp.ones((1, 1, 3, 4)),)}}, True)) == 1
