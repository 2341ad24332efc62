"""The classifier: any encoder and pooling, no logit depends on padding, pretrained encoders fit in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.models.classifier import VARIANTS

V, S = 11, 6
ENCODERS = {
    "cnn": dict(name="convolutional", kw=dict(filters=4, embedding_dim=6)),
    "stack": dict(name="convolutional", kw=dict(style="stack", width=8, num_layers=1, embedding_dim=6)),
    "bag": dict(name="bag_of_embeddings", kw=dict(embedding_dim=6, num_buckets=16)),
    "lstm": dict(name="recurrent", kw=dict(cell="lstm", width=4, bidirectional=True)),
    "gru": dict(name="recurrent", kw=dict(cell="gru", width=4)),
    "transformer": dict(name="transformer", kw=dict(num_layers=1, num_heads=2, width=8)),
}


@functools.cache
def made(encoder, pooling="mean", **kw):
    plugin = dict(name="classifier", kw=dict(encoder=ENCODERS[encoder], pooling=pooling, **kw))
    model = lookup.make("model", plugin, vocab_size=V, num_labels=3, max_length=16, dtype=jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), tokens())["params"]
    return model, jax.tree.map(lambda a: a * 3, params)


def tokens(batch=2, length=S, seed=0):
    return np.random.default_rng(seed).integers(0, V, (batch, length), dtype=np.int32)


def run(model, params, x, segments=None, **kw):
    return np.asarray(jax.jit(lambda p, x, s: model.apply({"params": p}, x, segments_BS=s, **kw))(params, x, segments))


CASES = [(e, p) for e in ENCODERS for p in ("mean", "last")]
CASES += [("lstm", "state"), ("gru", "state"), ("bag", "attention"), ("cnn", "max_mean"), ("transformer", "first"), ("cnn", "max")]


@pytest.mark.parametrize("encoder, pooling", CASES)
def test_no_logit_depends_on_padding(encoder, pooling):
    """KNOWN_BUGS 21: LSTM, BiLSTM, CNN, bag, Transformer; padding left and right, wild ids in it."""
    model, params = made(encoder, pooling)
    x = tokens()
    want = run(model, params, x)
    wild = np.full((2, 8), 10**6, np.int32)
    padded = np.concatenate([wild[:, :3], x, wild[:, :5]], axis=1)
    segments = np.pad(np.ones_like(x), ((0, 0), (3, 5)))
    np.testing.assert_allclose(run(model, params, padded, segments), want, atol=1e-4)
    np.testing.assert_allclose(run(model, params, x[1:]), want[1:], atol=1e-4)
    assert want.dtype == np.float32


def test_unmasked_padding_is_the_bug_that_it_is_named_after():
    """KNOWN_BUGS 21: the recurrent encoder can be told to read padding, and then padding decides."""
    encoder = dict(name="recurrent", kw=dict(cell="lstm", width=4, bidirectional=True, mask_padding=False))
    plugin = dict(name="classifier", kw=dict(encoder=encoder, pooling="state"))
    model = lookup.make("model", plugin, vocab_size=V, num_labels=3, max_length=16, dtype=jnp.float32)
    _, params = made("lstm", "state")
    padded, segments = np.pad(tokens(), ((0, 0), (0, 8))), np.pad(np.ones((2, S), np.int32), ((0, 0), (0, 8)))
    assert not np.allclose(run(model, params, padded, segments), run(model, params, tokens()), atol=1e-3)


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_encoders_parameters_stand_where_a_pretrained_one_has_them(encoder):
    _, params = made(encoder)
    alone = lookup.make("encoder", ENCODERS[encoder], vocab_size=V, max_length=16, dtype=jnp.float32)
    shapes = jax.eval_shape(alone.init, jax.random.key(0), tokens())["params"]
    assert jax.tree.map(jnp.shape, params["encoder"]) == jax.tree.map(jnp.shape, shapes)
    assert set(params) == {"encoder", "output"}


@pytest.mark.parametrize("encoder", ["cnn", "gru", "bag"])
def test_characters_are_read_beside_the_tokens_and_padding_is_not(encoder):
    """KNOWN_BUGS 21."""
    plugin = dict(name="classifier", kw=dict(encoder=ENCODERS[encoder], character_dim=4, character_buckets=32))
    model = lookup.make("model", plugin, vocab_size=V, num_labels=3, max_length=16, dtype=jnp.float32)
    chars = np.random.default_rng(1).integers(1, 99, (2, S, 5), dtype=np.int32)
    params = model.init(jax.random.key(0), tokens(), chars_BSK=chars)["params"]
    want = run(model, params, tokens(), chars_BSK=chars)
    padded, segments = np.pad(tokens(), ((0, 0), (2, 3))), np.pad(np.ones((2, S), np.int32), ((0, 0), (2, 3)))
    got = run(model, params, padded, segments, chars_BSK=np.pad(chars, ((0, 0), (2, 3), (0, 0)), constant_values=7))
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert not np.allclose(run(model, params, tokens(), chars_BSK=chars + 1), want)
    with pytest.raises(UserError, match="belong together"):
        run(model, params, tokens())


def test_the_head_of_bert_is_its_formula():
    model, params = made("transformer", "first", head="tanh")
    alone = lookup.make("encoder", ENCODERS["transformer"], vocab_size=V, max_length=16, dtype=jnp.float32)
    x = np.asarray(alone.apply({"params": params["encoder"]}, tokens()).values_BSD)[:, 0]
    p = jax.tree.map(np.asarray, params)
    want = np.tanh(x @ p["hidden"]["kernel"] + p["hidden"]["bias"]) @ p["output"]["kernel"] + p["output"]["bias"]
    np.testing.assert_allclose(run(model, params, tokens()), want, atol=1e-4)


def test_bert_base_with_its_pooler_has_the_published_size():
    plugin = dict(name="classifier", kw=dict(variant="bert"))
    model = lookup.make("model", plugin, vocab_size=30522, num_labels=2, max_length=512, dtype=jnp.float32)
    shapes = jax.eval_shape(lambda k, x: model.init(k, x, types_BS=x), jax.random.key(0), tokens())["params"]
    size = sum(a.size for a in jax.tree.leaves(shapes))
    assert size == 109_482_240 + 2 * 768 + 2


def test_dropout_only_where_asked_for():
    """KNOWN_BUGS 28."""
    model, params = made("bag", dropout=0.5)
    np.testing.assert_array_equal(run(model, params, tokens()), run(model, params, tokens()))
    train = jax.jit(lambda k: model.apply({"params": params}, tokens(), deterministic=False, rngs={"dropout": k}))
    assert not np.array_equal(train(jax.random.key(0)), train(jax.random.key(1)))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_presets_name_existing_fields_and_are_sound(variant):
    fields = lookup.fields("model", "classifier")
    assert set(VARIANTS[variant]) <= set(fields)
    complete = {name: field.default for name, field in fields.items()} | VARIANTS[variant]
    assert lookup.problems("model", "classifier", complete) == []
    encoder = VARIANTS[variant]["encoder"]
    assert set(encoder["kw"]) <= set(lookup.fields("encoder", encoder["name"]))


def test_what_does_not_fit_together_is_said():
    with pytest.raises(UserError, match="needs an encoder with final states"):
        made("bag", "state")
    complete = {name: field.default for name, field in lookup.fields("model", "classifier").items()}
    found = lookup.problems("model", "classifier", complete | dict(head_dim=5, attention_dim=5, dropout=1.0))
    assert len(found) == 3
