"""Hashed n-grams: by content and order, and a word as the mean of those of its characters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.layers.ngrams import CharacterNgrams, ngram_buckets

pytestmark = pytest.mark.usefixtures("strict_numerics")


def test_ngrams_hash_by_content_and_order():
    x = np.array([[3, 4, 3, 4, 4, 3]], np.int32)
    buckets = np.asarray(ngram_buckets(x, np.ones_like(x), 2, 1 << 20))[0]
    assert buckets[1] == buckets[3] and len({*buckets[1:].tolist()}) == 3  # 34 twice; 43, 44, 43
    many = np.arange(4000, dtype=np.int32)[None] % 89
    pairs = np.asarray(ngram_buckets(many * 7 + 1, np.ones_like(many), 2, 1024))[0, 1:]
    assert len(np.unique(pairs)) > 80  # 89 different bigrams in 1024 buckets


def codes(words, length=8):
    return np.array([[[ord(c) for c in word.ljust(length, "\0")] for word in row] for row in words], np.int32)


def test_a_word_is_the_mean_of_its_character_ngrams():
    layer = CharacterNgrams(4, (2, 3), num_buckets=64)
    chars = codes([["<ab>", "<b>", ""], ["<abc>", "x", "<ab>"]])
    params = layer.init(jax.random.key(0), chars)
    got = np.asarray(jax.jit(layer.apply)(params, chars))
    table = np.asarray(params["params"]["embedding"]["embedding"])

    def word(text):
        row = np.array([[ord(c) for c in text]], np.int32)
        found = [np.asarray(ngram_buckets(row, np.ones_like(row), n, 64))[0] for n in (2, 3)]
        return table[[b for buckets in found for b in buckets if b]].mean(0)

    for at, text in {(0, 0): "<ab>", (0, 1): "<b>", (1, 0): "<abc>", (1, 2): "<ab>"}.items():
        np.testing.assert_allclose(got[at], word(text), atol=1e-6)
    assert not got[0, 2].any() and not got[1, 1].any()  # nothing, and too short for an n-gram


def test_gradients_are_finite_and_dropout_is_for_training():
    """KNOWN_BUGS 7, 28."""
    layer = CharacterNgrams(4, dropout=0.5)
    chars = codes([["<word>", ""]])
    params = layer.init(jax.random.key(0), chars)
    gradient = jax.grad(lambda p: layer.apply(p, chars).sum())(params)
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(gradient))
    train = jax.jit(lambda k: layer.apply(params, chars, deterministic=False, rngs={"dropout": k}))
    assert not np.array_equal(train(jax.random.key(0)), train(jax.random.key(1)))
    assert jnp.array_equal(layer.apply(params, chars), layer.apply(params, chars))
