"""Each filter against its definition, written out in numpy for one row at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.decoding import filters
from decoder_lab.decoding.settings import Beam, Sampling

V = 6


def history(rows, columns: int = 9, end: int = 7) -> filters.History:
    """Left-pads rows up to column `end`; what stands in padding and after `end` is a real token id on purpose."""
    page = np.full((len(rows), columns), 2, np.int32)
    for i, row in enumerate(rows):
        page[i, end - len(row) : end] = row
    return filters.History(jnp.asarray(page), jnp.asarray([end - len(row) for row in rows], jnp.int32), jnp.asarray(end, jnp.int32))


@pytest.fixture
def logits_BV():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, V)), jnp.float32)


def test_repetition_penalty_counts_the_prompt_once_and_padding_never(logits_BV):
    """KNOWN_BUGS 13: padding is id 2 here, and 2 is penalised only in the row that really holds it."""
    rows = [[0, 1, 1, 1], [3], [2, 5]]
    out = jax.jit(filters.repetition_penalty, static_argnums=2)(logits_BV, history(rows), 1.7)
    for b, row in enumerate(rows):
        for v in range(V):
            x = float(logits_BV[b, v])
            expected = (x / 1.7 if x > 0 else x * 1.7) if v in row else x
            np.testing.assert_allclose(out[b, v], expected, rtol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_repeat_ngram_forbids_exactly_what_would_repeat(logits_BV, length):
    rows = [[0, 1, 4, 0, 1], [3], [2, 2, 5, 2, 2]]
    out = np.asarray(jax.jit(filters.no_repeat_ngram, static_argnums=2)(logits_BV, history(rows), length))
    for b, row in enumerate(rows):
        grams = {tuple(row[i : i + length]) for i in range(len(row) - length + 1)}
        for v in range(V):
            repeats = len(row) >= length - 1 and (*row[len(row) - length + 1 :], v) in grams
            assert (out[b, v] == -np.inf) == repeats, (b, v)
    assert np.isfinite(out).any(axis=1).all()


def test_a_row_with_everything_forbidden_is_left_alone():
    logits = jnp.arange(3.0)[None]
    np.testing.assert_array_equal(filters.no_repeat_ngram(logits, history([[0, 1, 2]]), 1), logits)
    without = filters.ban_until(logits, 2, 0, 4)  # nor one in which what is left is forbidden already
    np.testing.assert_array_equal(filters.no_repeat_ngram(without, history([[0, 1, 1]]), 1), without)


def kept(logits_BV) -> list[set[int]]:
    return [set(np.flatnonzero(np.isfinite(row))) for row in np.asarray(logits_BV)]


def test_top_k_and_min_p_and_top_p_keep_what_they_say(logits_BV):
    probs = np.asarray(jax.nn.softmax(logits_BV, axis=1))
    assert kept(filters.top_k(logits_BV, None, 2)) == [set(np.argsort(-row)[:2]) for row in probs]
    assert kept(filters.top_k(logits_BV, None, 100)) == [set(range(V))] * 3
    assert kept(filters.min_p(logits_BV, None, 0.3)) == [set(np.flatnonzero(row >= 0.3 * row.max())) for row in probs]
    for p in (0.01, 0.5, 0.9, 0.999):
        for row, names in zip(probs, kept(filters.top_p(logits_BV, None, p)), strict=True):
            assert row[list(names)].sum() >= p and row[list(names)].sum() - min(row[list(names)]) < p


def test_order_is_that_of_the_fields(logits_BV):
    """top-p acts on the distribution at the temperature asked for, and on what top-k has left of it."""
    out = filters.apply(Sampling(temperature=0.5, top_k=3, top_p=0.6), logits_BV, history([[0], [1], [3]]))
    expected = filters.top_p(filters.top_k(logits_BV / 0.5, None, 3), None, 0.6)
    np.testing.assert_array_equal(out, expected)


def test_settings_name_every_problem():
    bad = Sampling(temperature=-1, top_k=-1, top_p=0, min_p=2, repetition_penalty=0, no_repeat_ngram=-1).problems()
    assert [text.split("=")[0] for text in bad] == ["repetition_penalty", "no_repeat_ngram", "temperature", "top_k", "top_p", "min_p"]
    assert not Sampling().problems() and not Beam().problems() and Beam(size=0).problems()


def test_the_eos_that_begins_an_empty_prompt_is_no_repetition(logits_BV):
    """The text may end although its context begins with eos; every other token that it holds is penalised, or forbidden, as ever."""
    rows = history([[0], [0, 3], [0, 3, 4]])
    settings = Sampling(temperature=0.0, repetition_penalty=3.0)
    out = np.asarray(filters.apply(settings, logits_BV, rows, 0))
    np.testing.assert_array_equal(out[:, 0], logits_BV[:, 0])
    assert out[1, 3] != logits_BV[1, 3] and np.asarray(filters.apply(settings, logits_BV, rows))[0, 0] != logits_BV[0, 0]
    out = np.asarray(filters.apply(Sampling(temperature=0.0, no_repeat_ngram=1), logits_BV, rows, 0))
    assert np.isfinite(out[:, 0]).all() and np.isneginf(out[2, 3:5]).all()
