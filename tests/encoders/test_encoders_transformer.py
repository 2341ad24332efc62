"""The Transformer encoder: published sizes, padding, documents, windows, token types, features from outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.encoders.transformer import VARIANTS, Encoder, problems
from decoder_lab.layers.embedding import Embedding

pytestmark = pytest.mark.usefixtures("strict_numerics")
V, B, S, W = 11, 3, 8, 8
TINY = dict(num_layers=2, num_heads=2, width=W, init_stddev=0.4)
FLAVOURS = {
    "bert": dict(norm_position="post", embedding_norm=True, num_types=2, mlp="gelu_exact"),
    "t5": dict(norm="rms", position="t5", use_bias=False, attention_scale=1.0),
    "window": dict(position="alibi", window=2, num_layers=1),
    "scanned": dict(position="rotary", scan_layers=True, score="general"),
}
each_flavour = pytest.mark.parametrize("flavour", sorted(FLAVOURS))
X = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, S)), jnp.int32)


@functools.cache
def made(flavour="bert"):
    encoder = Encoder(V, 16, jnp.float32, **{**TINY, **FLAVOURS[flavour]})
    return encoder, jax.jit(lambda: encoder.init(jax.random.key(1), X[:, :2]))()


@functools.cache
def compiled(flavour):
    encoder, variables = made(flavour)
    return jax.jit(lambda x, kw: encoder.apply(variables, x, **kw))


def run(flavour, x=X, **kw):
    return compiled(flavour)(x, kw)


@pytest.mark.parametrize(
    ("variant", "count", "with_pooler"),
    [
        ("bert-tiny", 4_369_408, 4_385_920),
        ("bert-mini", 11_104_768, 11_170_560),
        ("bert-small", 28_500_992, 28_763_648),
        ("bert-medium", 41_110_528, 41_373_184),
        ("bert-base", 108_891_648, 109_482_240),
        ("bert-large", 334_092_288, 335_141_888),
        ("minilm-l6", 22_565_376, 22_713_216),
    ],
)
def test_parameter_counts_of_the_published_sizes(variant, count, with_pooler):
    encoder = Encoder(30522, 512, jnp.float32, **{**VARIANTS[variant], "scan_layers": True})
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count
    assert count + encoder.width * (encoder.width + 1) == with_pooler


@each_flavour
def test_padding_anywhere_changes_nothing(flavour):
    """KNOWN_BUGS 21: left, in the middle, right; wild ids in it; a row of nothing else."""
    segments = jnp.asarray([[0, 0, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1, 0, 0], [0] * S])
    memory = run(flavour, jnp.where(segments == 0, 10**6, X), segments_BS=segments)
    np.testing.assert_array_equal(memory.segments_BS, segments)
    for row in range(2):
        real = np.flatnonzero(segments[row])
        alone = run(flavour, X[row : row + 1, real])
        np.testing.assert_allclose(memory.values_BSD[row, real], alone.values_BSD[0], atol=3e-5)
    assert np.isfinite(memory.values_BSD).all()


@each_flavour
def test_documents_of_a_row_do_not_see_each_other(flavour):
    """KNOWN_BUGS 4."""
    packed = run(flavour, X[:1], segments_BS=jnp.asarray([[1] * 5 + [2] * 3])).values_BSD
    for start, end in ((0, 5), (5, 8)):
        np.testing.assert_allclose(packed[:, start:end], run(flavour, X[:1, start:end]).values_BSD, atol=3e-5)


def test_every_token_sees_both_sides_and_a_window_its_own():
    def sees(flavour, **kw):
        changed = [run(flavour, X[:1].at[0, s].set((X[0, s] + 1) % V), **kw).values_BSD for s in range(S)]
        return np.stack([np.abs(c - run(flavour, X[:1], **kw).values_BSD)[0].max(-1) > 1e-6 for c in changed], axis=1)

    assert sees("t5").all()
    np.testing.assert_array_equal(sees("window"), np.abs(np.subtract.outer(np.arange(S), np.arange(S))) < 2)


def test_token_types_and_features_are_added_and_padding_keeps_them_out():
    types = jnp.asarray([[0, 0, 1, 1, 1, 1, 1, 1]] * B)
    assert np.abs(run("bert", types_BS=types).values_BSD - run("bert").values_BSD).max() > 1e-3
    np.testing.assert_array_equal(run("bert", types_BS=types * 0).values_BSD, run("bert").values_BSD)
    encoder, _ = made("bert")
    features = jax.random.normal(jax.random.key(3), (B, S, 5))
    variables = jax.jit(lambda: encoder.init(jax.random.key(1), X, extra_BSE=features))()
    assert variables["params"]["extra"]["kernel"].shape == (5, W)
    segments = jnp.asarray([[1] * 5 + [0] * 3] * B)
    wild = jnp.where(segments[:, :, None] == 0, jnp.nan, features)
    encode = jax.jit(lambda f: encoder.apply(variables, X, extra_BSE=f, segments_BS=segments, types_BS=types).values_BSD[:, :5])
    values = [encode(f) for f in (features, wild)]
    np.testing.assert_array_equal(*values)
    assert np.abs(values[0] - run("bert", segments_BS=segments, types_BS=types).values_BSD[:, :5]).max() > 1e-3
    with pytest.raises(ValueError, match="no token types"):
        run("t5", types_BS=types)


def test_a_table_of_the_caller_is_used_instead_of_an_own_one():
    encoder, variables = made("t5")
    table, own = Embedding(V, W, 0.4), variables["params"]["token_embedding"]
    without = {k: v for k, v in variables["params"].items() if k != "token_embedding"}
    encode = jax.jit(lambda v, own: encoder.apply({"params": v}, X, embedding=table.bind({"params": own})).values_BSD)
    np.testing.assert_allclose(encode(without, own), run("t5").values_BSD, atol=1e-5)


def test_too_long_a_text_is_refused():
    with pytest.raises(ValueError, match="17 tokens exceed the 16 learned positions"):
        run("bert", jnp.zeros((1, 17), jnp.int32))


def test_variants_and_problems():
    complete = {name: field.default for name, field in lookup.fields("encoder", "transformer").items()}
    assert set().union(*VARIANTS.values()) <= set(complete)
    assert [problems({**complete, **kw}) for kw in VARIANTS.values()] == [[]] * len(VARIANTS)
    found = problems({**complete, "width": 130, "dropout": 1.0, "num_types": -1, "rope_scaling": {"type": "linear"}})
    for part in ("not divisible by num_heads", "dropout must be", "num_types must be", 'needs position="rotary"'):
        assert any(part in line for line in found), part
