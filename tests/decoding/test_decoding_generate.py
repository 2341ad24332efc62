"""Generation with two tiny decoders: a recurrent one whose state is the cache, and a Markov chain whose probabilities are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.decoding import sampling
from decoder_lab.decoding.context import Decoder
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY, SAMPLING, Beam, Sampling

V, D = 6, 8
ALPHABET = "abcdef"


def rnn_step(params, tokens_BT, positions_BT, segments_BT, cache):
    """A recurrent decoder that also looks at positions; padding leaves its state alone."""

    def one(h_BD, inputs):
        token_B, position_B, segment_B = inputs
        new_BD = jnp.tanh(h_BD @ params["w"] + params["token"][token_B] + params["position"][position_B])
        h_BD = jnp.where(segment_B[:, None] > 0, new_BD, h_BD)
        return h_BD, h_BD @ params["out"]

    h_BD, logits_TBV = jax.lax.scan(one, cache["h"], (tokens_BT.T, positions_BT.T, segments_BT.T))
    return logits_TBV.swapaxes(0, 1), {"h": h_BD, "calls": cache["calls"] + 1}


def rnn_cache(batch_size, num_slots):
    return {"h": jnp.zeros((batch_size, D)), "calls": jnp.zeros((), jnp.int32)}


def rnn_params(seed: int = 0):
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = {"w": (D, D), "token": (V, D), "position": (64, D), "out": (D, V)}
    scales = {"position": 0.3}
    return {name: scales.get(name, 1.0) * jax.random.normal(key, shapes[name]) for key, name in zip(keys, shapes, strict=True)}


@jax.jit
def _next_logits(params, tokens_T, length):
    positions_T = jnp.arange(tokens_T.shape[0])
    segments_T = (positions_T < length).astype(jnp.int32)
    logits_1TV, _ = rnn_step(params, tokens_T[None], positions_T[None], segments_T[None], rnn_cache(1, 0))
    return logits_1TV[0, length - 1]


def next_logprobs(params, context):
    """What the uncached decoder says of the token after `context`."""
    padded = np.zeros(40, np.int32)
    padded[: len(context)] = context
    return np.asarray(jax.nn.log_softmax(_next_logits(params, padded, len(context))))


def greedy_by_hand(params, prompt, num_tokens, eos_id=None, max_length=None):
    """Uncached greedy decoding; a context longer than `max_length` is cut to its newest half."""
    context, tokens, logprob = list(prompt), [], 0.0
    for _ in range(num_tokens):
        if max_length is not None and len(context) > max_length:
            context = context[-max(max_length // 2, 1) :]
        logprobs = next_logprobs(params, context)
        token = int(logprobs.argmax())
        logprob += float(logprobs[token])
        if token == eos_id:
            return tokens, logprob, "eos"
        tokens.append(token)
        context.append(token)
    return tokens, logprob, "length"


PROMPTS = [[1, 2, 3, 4, 5, 1, 2, 3, 4], [4], [5, 0, 5]]


@pytest.fixture(scope="module")
def params():
    return rnn_params()


@functools.cache
def generator(eos_id=None, max_length=None) -> Generator:
    decoder = Decoder(rnn_step, rnn_cache, max_length)
    return Generator(decoder, eos_id=eos_id, decode=lambda ids: "".join(ALPHABET[i] for i in ids))


class Close(float):
    """A number that equals those that differ by rounding only."""

    __hash__ = None

    def __eq__(self, other):
        return abs(float(self) - float(other)) < 2e-4


def flat(result):
    """[(tokens, log-probability up to rounding, reason)] of all texts."""
    return [(x.tokens, Close(x.logprob), x.reason) for texts in result for x in texts]


@pytest.mark.parametrize("eos_id", [None, 0])
def test_greedy_equals_the_uncached_decoder(params, eos_id):
    """KNOWN_BUGS 5, 6: ragged prompts in one batch, each as by hand; the rows end at different times."""
    result = flat(generator(eos_id).generate(params, PROMPTS, 9, GREEDY))
    for row, prompt in zip(result, PROMPTS, strict=True):
        tokens, logprob, reason = greedy_by_hand(params, prompt, 9, eos_id)
        assert row[0] == tokens and row[2] == reason
        np.testing.assert_allclose(row[1], logprob, atol=1e-3)


@pytest.mark.parametrize("max_length", [1, 2, 6])
def test_beyond_the_maximum_the_newest_half_goes_on(params, max_length):
    """KNOWN_BUGS 6: rows roll at different times, a prompt may itself be too long, and each row is as if computed without a cache."""
    result = flat(generator(None, max_length).generate(params, PROMPTS, 15, GREEDY))
    for row, prompt in zip(result, PROMPTS, strict=True):
        tokens, logprob, _ = greedy_by_hand(params, prompt, 15, max_length=max_length)
        assert row[0] == tokens
        np.testing.assert_allclose(row[1], logprob, atol=1e-3)


def test_rolling_goes_on_around_rows_that_have_ended(params):
    result = flat(generator(0, 6).generate(params, PROMPTS, 15, GREEDY))
    assert result == [flat(generator(0, 6).generate(params, [prompt], 15, GREEDY))[0] for prompt in PROMPTS]
    assert result[0][0] == greedy_by_hand(params, PROMPTS[0], 15, 0, 6)[0]


MIXED = Sampling(temperature=1.3, top_k=5, top_p=0.95, min_p=0.01, repetition_penalty=1.2, no_repeat_ngram=4)


@pytest.mark.parametrize("settings", [SAMPLING, MIXED], ids=["plain", "filters"])
def test_a_row_does_not_depend_on_its_batch(params, settings):
    """KNOWN_BUGS 5: a prompt's samples are the same alone, in a batch, and with another number of samples."""
    together = generator(0).generate(params, PROMPTS, 8, settings, seed=3, num_samples=2)
    for i, prompt in enumerate(PROMPTS):
        assert flat([together[i]]) == flat(generator(0).generate(params, [prompt], 8, settings, seed=3, num_samples=2, numbers=[i]))
        assert flat([together[i][:1]]) == flat(generator(0).generate(params, [prompt], 8, settings, seed=3, numbers=[i]))


def test_seeds_samples_and_rows_draw_their_own_and_repeat(params):
    """KNOWN_BUGS 28: the same call gives the same texts; another seed, row or sample gives others."""

    def draw(seed):
        return flat(generator().generate(params, [[1, 2], [1, 2]], 12, SAMPLING, seed=seed, num_samples=2))

    assert draw(0) == draw(0) != draw(1)
    assert len({tuple(tokens) for tokens, _, _ in draw(0)}) == 4


def test_samples_have_the_distribution_asked_for(params):
    """The frequencies of 4000 first tokens lie within five standard errors of softmax(logits / temperature)."""
    result = generator().generate(params, [[1, 2]], 1, Sampling(temperature=2.0), num_samples=4000)
    counts = np.bincount([x.tokens[0] for x in result[0]], minlength=V) / 4000
    probs = np.asarray(jax.nn.softmax(next_logprobs(params, [1, 2]) / 2.0))
    assert np.all(np.abs(counts - probs) < 5 * np.sqrt(probs * (1 - probs) / 4000))


def test_logprob_is_the_models_own(params):
    """Under every filter and temperature, the score of a text is its teacher-forced log-probability, eos included."""
    for texts, prompt in zip(generator(0).generate(params, PROMPTS, 8, MIXED, num_samples=2), PROMPTS, strict=True):
        for text in texts:
            context, total = list(prompt), 0.0
            for token in [*text.tokens, *([0] if text.reason == "eos" else [])]:
                total += next_logprobs(params, context)[token]
                context.append(token)
            np.testing.assert_allclose(text.logprob, total, atol=1e-3)


def test_streaming_writes_the_same_tokens(params):
    """The tokens seen on the way add up to the result, whatever the chunks; eos is not among them."""
    for settings in (GREEDY, MIXED):
        seen = {}
        result = generator(0).generate(
            params,
            PROMPTS,
            24,
            settings,
            num_samples=2,
            on_tokens=lambda i, s, tokens: seen.setdefault((i, s), []).extend(tokens),  # noqa: B023
        )
        assert flat(result) == flat(generator(0).generate(params, PROMPTS, 24, settings, num_samples=2))
        assert {k: v for k, v in seen.items() if v} == {
            (i, s): text.tokens for i, texts in enumerate(result) for s, text in enumerate(texts) if text.tokens
        }


def test_stop_strings_end_the_text_before_them(params):
    """The result is the unstopped text cut at the first stop string, in each row on its own."""
    free = generator().generate(params, PROMPTS, 40, GREEDY)
    stop = (free[0][0].text[5:8], free[1][0].text[20:22])
    seen = {}
    stopped = generator().generate(
        params, PROMPTS, 40, GREEDY, stop=stop, on_tokens=lambda i, s, tokens: seen.setdefault(i, []).extend(tokens)
    )
    assert flat(stopped) == flat(generator().generate(params, PROMPTS, 40, GREEDY, stop=stop))
    for i, ([whole], [cut]) in enumerate(zip(free, stopped, strict=True)):
        at = min((whole.text.find(s) for s in stop if s in whole.text), default=-1)
        assert (cut.reason == "stop") == (at >= 0) and seen[i] == cut.tokens
        assert cut.text == (whole.text if at < 0 else whole.text[:at])
        assert cut.tokens == whole.tokens[: len(cut.tokens)] and cut.logprob >= whole.logprob
    assert stopped[0][0].reason == "stop"


def test_a_repetition_penalty_counts_the_prompt_and_no_padding():
    """KNOWN_BUGS 13: on a chain with flat probabilities the choice is the lowest id that the row does not hold, pads (id 0) not counted."""
    step = lambda params, tokens, positions, segments, cache: (jnp.ones((*tokens.shape, V)), cache)  # noqa: E731
    chain = Generator(Decoder(step, lambda batch_size, num_slots: {"nothing": jnp.zeros(batch_size)}))
    result = chain.generate({}, [[1, 2], [2, 1, 1, 0, 4]], 3, Sampling(temperature=0, repetition_penalty=2.0))
    assert [texts[0].tokens for texts in result] == [[0, 3, 4], [3, 5, 0]]


def test_nearby_shapes_and_new_params_do_not_compile_again(params):
    """JAX sibling of the list: the compile count stays where it is for other lengths of one bucket, other parameters and other limits."""
    call = generator(2).generate
    call(params, [[1] * 9, [2]], 20, GREEDY)
    before = sampling.advance._cache_size()
    call(rnn_params(1), [[1] * 12, [2] * 3], 24, GREEDY, seed=5)
    call(rnn_params(2), [[1] * 10, [2] * 3], 17, GREEDY, on_tokens=print)
    assert sampling.advance._cache_size() == before


def test_errors_say_everything_at_once(params):
    with pytest.raises(UserError, match="(?s)temperature.*empty.*num_tokens=0"):
        generator().generate(params, [[1], []], 0, Sampling(temperature=-1))
    with pytest.raises(UserError, match="(?s)a beam of 2 returns at most 2.*no stop strings"):
        generator().generate(params, [[1]], 4, Beam(2), num_samples=3, stop=["a"])
