"""The recurrent encoder: padding, batches, features beside the embeddings, and the bug that it can reproduce."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.encoders.recurrent import Encoder
from decoder_lab.layers.embedding import Embedding

pytestmark = pytest.mark.usefixtures("strict_numerics")
V, S, W, E = 11, 7, 4, 3
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, V, (3, S)), jnp.int32)
REAL = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]], bool)


@functools.cache
def made(**kw):
    encoder = Encoder(V, S, jnp.float32, **{"cell": "lstm", "width": W, "embedding_dim": E, "num_layers": 2, "bidirectional": True, **kw})
    params = jax.jit(encoder.init)(jax.random.key(0), TOKENS)
    return encoder, params, jax.jit(encoder.apply, static_argnames="deterministic")


def equal(memory, row, real, single):
    np.testing.assert_allclose(memory.values_BSD[row, real], single.values_BSD[0], atol=1e-6)
    for got, want in zip(jax.tree.leaves(memory.states), jax.tree.leaves(single.states), strict=True):
        np.testing.assert_allclose(got[row], want[0], atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("kw", [{}, dict(bidirectional=False, reverse_source=True)])
def test_a_padded_batch_equals_single_texts(cell, kw):
    """KNOWN_BUGS 5, 21: left and right padding with wild ids."""
    _, params, run = made(cell=cell, **kw)
    memory = run(params, jnp.where(REAL, TOKENS, 10**6), segments_BS=jnp.asarray(REAL, jnp.int32))
    for row, real in enumerate(REAL):
        equal(memory, row, real, run(params, TOKENS[row, real][None]))
    assert len(memory.states) == 2 and memory.segments_BS.dtype == jnp.int32


def test_states_are_those_at_the_last_and_the_first_real_token():
    """KNOWN_BUGS 21: not those after the padding."""
    _, params, run = made(cell="gru")
    memory = run(params, TOKENS, segments_BS=jnp.asarray(REAL, jnp.int32))
    for row, (first, last) in enumerate(((0, 6), (0, 3), (3, 6))):
        np.testing.assert_allclose(memory.states[-1][row, :W], memory.values_BSD[row, last, :W], atol=1e-6)
        np.testing.assert_allclose(memory.states[-1][row, W:], memory.values_BSD[row, first, W:], atol=1e-6)


def test_unmasked_padding_is_the_bug_that_it_says_it_is():
    """KNOWN_BUGS 21: without masking, the same text has other values and states in a longer batch; without padding nothing differs."""
    _, params, run = made()
    _, _, buggy = made(mask_padding=False)
    ones = jnp.ones((3, S), jnp.int32)
    want = run(params, TOKENS, segments_BS=ones).values_BSD
    np.testing.assert_allclose(buggy(params, TOKENS, segments_BS=ones).values_BSD, want, atol=1e-6)
    memory = buggy(params, jnp.where(REAL, TOKENS, 0), segments_BS=jnp.asarray(REAL, jnp.int32))
    single = run(params, TOKENS[1, :4][None])
    assert np.abs(np.asarray(memory.values_BSD[1, :4] - single.values_BSD[0])).max() > 1e-3
    assert np.abs(np.asarray(memory.states[-1][1][1] - single.states[-1][1][0])).max() > 1e-3
    assert memory.segments_BS.tolist() == REAL.astype(int).tolist()


def test_a_reversed_source_is_the_reversed_text():
    """Sutskever et al. 2014; the values stay at their tokens."""
    _, params, run = made(bidirectional=False, reverse_source=True)
    _, same, forward = made(bidirectional=False)
    renamed = {name.replace("forward", "backward"): p for name, p in same["params"]["recurrent"].items()}
    params = {"params": {**same["params"], "recurrent": renamed}}
    got, want = run(params, TOKENS), forward(same, TOKENS[:, ::-1])
    np.testing.assert_allclose(got.values_BSD, want.values_BSD[:, ::-1], atol=1e-6)
    for a, b in zip(jax.tree.leaves(got.states), jax.tree.leaves(want.states), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_features_beside_the_embeddings_are_read_but_not_at_padding():
    encoder, _, _ = made()
    extra = jax.random.normal(jax.random.key(1), (3, S, 2))
    params = jax.jit(encoder.init)(jax.random.key(0), TOKENS, extra_BSE=extra)
    assert params["params"]["recurrent"]["forward_0"]["kernel"].shape == (E + 2, 4 * W)
    run, segments = jax.jit(encoder.apply), jnp.asarray(REAL, jnp.int32)
    one = run(params, TOKENS, segments_BS=segments, extra_BSE=extra)
    wild = run(params, TOKENS, segments_BS=segments, extra_BSE=jnp.where(REAL[:, :, None], extra, jnp.nan))
    np.testing.assert_array_equal(one.values_BSD, wild.values_BSD)
    moved = run(params, TOKENS, segments_BS=segments, extra_BSE=extra.at[1, 1].add(1.0))
    assert np.abs(np.asarray(moved.values_BSD - one.values_BSD))[1, 1].max() > 1e-4


def test_the_parents_embedding_is_used_and_no_other_made():
    encoder, _, _ = made()
    table = Embedding(V, E).bind({"params": {"embedding": jnp.ones((V, E))}})
    params = encoder.init(jax.random.key(0), TOKENS, embedding=table)
    assert set(params["params"]) == {"recurrent"}
    values = encoder.apply(params, TOKENS, embedding=table).values_BSD
    np.testing.assert_array_equal(values, encoder.apply(params, TOKENS * 0, embedding=table).values_BSD)


def test_token_types_are_refused_and_dropout_is_not_on_unasked():
    _, params, run = made(dropout=0.5)
    with pytest.raises(ValueError, match="types_BS must be None"):
        run(params, TOKENS, types_BS=TOKENS)
    np.testing.assert_array_equal(run(params, TOKENS).values_BSD, run(params, TOKENS).values_BSD)
    noisy = run(params, TOKENS, deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert np.abs(np.asarray(noisy.values_BSD - run(params, TOKENS).values_BSD)).max() > 1e-3


@pytest.mark.parametrize(
    ("kw", "published", "second_biases"),
    [
        (dict(num_layers=2, reverse_source=True), 5_688_576, 2 * 4 * 512),
        (dict(cell="gru"), 3_193_088, 2 * 512),
        (dict(cell="gru", bidirectional=True), 4_375_808, 2 * 2 * 512),
    ],
)
def test_parameter_counts_of_the_tutorial_ladder(kw, published, second_biases):
    """bentrevett/pytorch-seq2seq 1 to 3 with 7,853 German words; PyTorch has a second bias for every gate that needs only one."""
    encoder = Encoder(7853, 64, jnp.float32, **{"width": 512, "embedding_dim": 256, **kw})
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), TOKENS)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == published - second_biases


def test_bfloat16_runs_and_stays_near():
    _, params, run = made()
    half = jax.jit(Encoder(V, S, jnp.bfloat16, cell="lstm", width=W, embedding_dim=E, num_layers=2, bidirectional=True).apply)(
        params, TOKENS
    )
    assert half.values_BSD.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.values_BSD.astype(jnp.float32), run(params, TOKENS).values_BSD, atol=0.02)


def test_problems_are_named():
    fields = {name: field.default for name, field in lookup.fields("encoder", "recurrent").items()}
    assert lookup.problems("encoder", "recurrent", fields) == []
    found = lookup.problems("encoder", "recurrent", {**fields, "width": 0, "dropout": 1.0, "reverse_source": True, "bidirectional": True})
    assert len(found) == 3 and "width must be at least 1, got 0" in found[0] and "changes nothing" in found[2]
