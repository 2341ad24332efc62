"""The linear-chain CRF against enumeration of every path, with ragged rows, forbidden transitions and bad input."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops import crf, tag_schemes

pytestmark = pytest.mark.usefixtures("strict_numerics")

C = 3
MASKS = {
    "full": [1, 1, 1, 1],
    "ragged": [1, 1, 0, 0],
    "one word": [1, 0, 0, 0],
    "left padding": [0, 0, 1, 1],
    "holes": [1, 0, 1, 0],
    "empty": [0, 0, 0, 0],
}
log_partition, log_likelihood, path_score, viterbi, marginals = map(
    jax.jit, (crf.log_partition, crf.log_likelihood, crf.path_score, crf.viterbi, crf.marginals)
)


def random_case(seed, batch=1, length=4, num_tags=C, scale=2.0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)  # noqa: E731
    transitions = tag_schemes.Transitions(draw(num_tags, num_tags), draw(num_tags), draw(num_tags))
    return draw(batch, length, num_tags), transitions


def enumerate_paths(emissions_TC, mask_T, transitions):
    """Returns {path of the words: score} of one row, from the definition."""
    emissions_TC = np.asarray(emissions_TC, np.float64)[np.asarray(mask_T, bool)]
    between, start, end = (np.asarray(x, np.float64) for x in transitions)
    found = {}
    for path in itertools.product(range(emissions_TC.shape[1]), repeat=len(emissions_TC)):
        score = sum(emissions_TC[t, c] for t, c in enumerate(path)) + sum(between[a, b] for a, b in itertools.pairwise(path))
        found[path] = score + (start[path[0]] + end[path[-1]] if path else 0.0)
    return found


def log_sum(scores):
    top = max(scores)
    return top + math.log(sum(math.exp(s - top) for s in scores))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_enumeration(name, seed):
    """KNOWN_BUGS 22: log Z, best path, its score, path scores and marginals of ragged rows equal brute force."""
    emissions, transitions = random_case(seed)
    mask = jnp.asarray([MASKS[name]], jnp.int32)
    paths = enumerate_paths(emissions[0], MASKS[name], transitions)
    log_z = log_sum(list(paths.values()))
    np.testing.assert_allclose(log_partition(emissions, mask, transitions)[0], log_z, rtol=1e-5, atol=1e-5)
    best = max(paths, key=paths.get)
    tags, score = viterbi(emissions, mask, transitions)
    words = np.flatnonzero(MASKS[name])
    assert tuple(np.asarray(tags)[0, words].tolist()) == best
    assert not np.delete(np.asarray(tags)[0], words).any()
    np.testing.assert_allclose(score[0], paths[best], rtol=1e-5, atol=1e-5)
    expected = np.zeros((4, C))
    tags = np.zeros((C**4, 4), np.int32)  # every path a row, filled up so that all masks share one compilation
    for row, (path, value) in enumerate(paths.items()):
        tags[row, words] = path
        expected[words, list(path)] += math.exp(value - log_z)
    scores = path_score(jnp.repeat(emissions, C**4, 0), jnp.asarray(tags), jnp.repeat(mask, C**4, 0), transitions)
    np.testing.assert_allclose(scores[: len(paths)], list(paths.values()), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(marginals(emissions, mask, transitions)[0], expected, atol=1e-5)


def test_likelihoods_of_all_paths_sum_to_one():
    emissions, transitions = random_case(5, length=3)
    tags = jnp.asarray(list(itertools.product(range(C), repeat=3)), jnp.int32)
    found = log_likelihood(jnp.repeat(emissions, len(tags), 0), tags, jnp.ones(tags.shape, jnp.int32), transitions)
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=1e-5)


def test_a_batch_equals_its_rows_whatever_stands_in_padding():
    """KNOWN_BUGS 22: rows do not see each other, nor emissions and tags (of no meaning, even out of range) where masked."""
    emissions, transitions = random_case(7, batch=6, length=4)
    mask = jnp.asarray(list(MASKS.values()), jnp.int32)
    tags = jnp.asarray(np.random.default_rng(0).integers(C, size=(6, 4)), jnp.int32)
    rows = [log_likelihood(emissions[i : i + 1], tags[i : i + 1], mask[i : i + 1], transitions)[0] for i in range(6)]
    wild = jnp.where(mask[..., None] == 0, jnp.float32(1e4), emissions)
    wild_tags = jnp.where(mask == 0, -100, tags)
    np.testing.assert_allclose(log_likelihood(wild, wild_tags, mask, transitions), np.stack(rows), rtol=1e-6)
    np.testing.assert_array_equal(viterbi(wild, mask, transitions)[0], viterbi(emissions, mask, transitions)[0])


def test_longer_padding_changes_nothing():
    emissions, transitions = random_case(8, batch=2, length=3)
    mask, tags = jnp.asarray([[1, 1, 1], [1, 1, 0]], jnp.int32), jnp.asarray([[0, 1, 2], [2, 0, 0]], jnp.int32)
    pad = lambda x: jnp.pad(x, ((0, 0), (2, 3)) + ((0, 0),) * (x.ndim - 2))  # noqa: E731
    args, padded = (emissions, tags, mask), (pad(emissions), pad(tags), pad(mask))
    np.testing.assert_allclose(log_likelihood(*args, transitions), log_likelihood(*padded, transitions), rtol=1e-6)


def gradient(emissions, tags, mask, transitions):
    loss = lambda e, t: -jnp.sum(crf.log_likelihood(e, tags, mask, t))  # noqa: E731
    return jax.jit(jax.grad(loss, argnums=(0, 1)))(emissions, transitions)


def test_an_empty_row_has_no_loss_and_finite_gradient():
    """KNOWN_BUGS 7 and 22: nothing to tag gives 0 and zero gradients, also where another row of the batch has words."""
    emissions, transitions = random_case(9, batch=2)
    mask, tags = jnp.asarray([[0] * 4, [1] * 4], jnp.int32), jnp.zeros((2, 4), jnp.int32)
    assert float(log_likelihood(emissions, tags, mask, transitions)[0]) == 0.0
    by_emissions, by_transitions = gradient(emissions, tags, mask, transitions)
    assert not np.asarray(by_emissions[0]).any()
    assert all(np.isfinite(x).all() and np.asarray(x).any() for x in by_transitions)
    _, none = gradient(emissions[:1], tags[:1], mask[:1], transitions)
    assert not any(np.asarray(x).any() for x in none)


def test_gradient_equals_finite_differences():
    emissions, transitions = random_case(10, batch=2, length=3, scale=0.5)
    tags, mask = jnp.asarray([[0, 2, 1], [1, 0, 0]], jnp.int32), jnp.asarray([[1, 1, 1], [1, 1, 0]], jnp.int32)
    _, by_transitions = gradient(emissions, tags, mask, transitions)
    for i, j in itertools.product(range(C), repeat=2):
        moved = [transitions._replace(between_CC=transitions.between_CC.at[i, j].add(step)) for step in (1e-2, -1e-2)]
        up, down = (-jnp.sum(log_likelihood(emissions, tags, mask, t)) for t in moved)
        np.testing.assert_allclose(by_transitions.between_CC[i, j], (up - down) / 2e-2, atol=2e-3)


def test_bfloat16_emissions_are_summed_in_float32():
    emissions, transitions = random_case(11, length=4)
    low = emissions.astype(jnp.bfloat16)
    mask = jnp.ones((1, 4), jnp.int32)
    assert log_partition(low, mask, transitions).dtype == jnp.float32
    np.testing.assert_array_equal(log_partition(low, mask, transitions), log_partition(low.astype(jnp.float32), mask, transitions))


SCHEME_TAGS = {
    "BIO": ("O", "B-a", "I-a", "B-b", "I-b"),
    "IOB1": ("O", "B-a", "I-a", "I-b"),
    "BIOES": ("O", "B-a", "I-a", "E-a", "S-a", "S-b"),
    "BMES": ("B", "M", "E", "S"),
}


@pytest.mark.parametrize("scheme", tag_schemes.SCHEMES)
def test_constrained_decoding_is_the_best_valid_path(scheme):
    tags = SCHEME_TAGS[scheme]
    allowed = tag_schemes.allowed(tags, scheme)
    for seed in range(5):
        emissions, transitions = random_case(seed, length=3, num_tags=len(tags), scale=5.0)
        length = 2 if scheme == "BMES" else 3
        mask = jnp.asarray([[1] * length + [0] * (3 - length)], jnp.int32)
        paths = enumerate_paths(emissions[0], mask[0], transitions)
        valid = {p: s for p, s in paths.items() if tag_schemes.first_violation([tags[c] for c in p], scheme) is None}
        found, score = viterbi(emissions, mask, crf.constrained(transitions, allowed))
        best = max(valid, key=valid.get)
        assert tuple(np.asarray(found)[0, :length].tolist()) == best
        np.testing.assert_allclose(score[0], valid[best], rtol=1e-5)
        log_z = log_partition(emissions, mask, crf.constrained(transitions, allowed))[0]
        np.testing.assert_allclose(log_z, log_sum(list(valid.values())), rtol=1e-5, atol=1e-5)


def test_constraints_in_training_have_finite_gradients():
    """KNOWN_BUGS 7: forbidden transitions are zero probabilities, not NaN; even where the given tags break the scheme."""
    tags = SCHEME_TAGS["BIO"]
    emissions, transitions = random_case(3, length=4, num_tags=5)
    allowed = tag_schemes.allowed(tags, "BIO")
    loss = lambda t, y: -jnp.sum(crf.log_likelihood(emissions, y, jnp.ones((1, 4), bool), crf.constrained(t, allowed)))  # noqa: E731
    for path in ([0, 1, 2, 0], [0, 2, 2, 0]):
        grads = jax.jit(jax.grad(loss))(transitions, jnp.asarray([path], jnp.int32))
        assert all(np.isfinite(x).all() for x in grads)
    assert crf.constrained(transitions, None) is transitions


def test_where_no_path_is_allowed_the_fewest_violations_win():
    """One word in BMES may only be S; without S in the tag set something still comes out, finite."""
    allowed = tag_schemes.allowed(("B", "E"), "BMES")
    emissions, transitions = random_case(4, length=3, num_tags=2)
    tags, score = viterbi(emissions, jnp.ones((1, 3), bool), crf.constrained(transitions, allowed))
    assert np.isfinite(score).all() and set(np.asarray(tags).ravel().tolist()) <= {0, 1}
