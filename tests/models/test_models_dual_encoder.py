"""Two towers: unit vectors, shared or apart, the same whatever the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError

V, S = 11, 6


def made(source_vocab_size=V, **kw):
    encoder = dict(name="convolutional", kw=dict(filters=4, embedding_dim=6))
    plugin = dict(name="dual_encoder", kw=dict(encoder=encoder, projection_dim=5, **kw))
    given = dict(vocab_size=V, source_vocab_size=source_vocab_size, max_length=16, dtype=jnp.float32)
    model = lookup.make("model", plugin, **given)
    return model, jax.jit(model.init)(jax.random.key(0), tokens(), tokens())["params"]


def tokens(seed=0):
    return np.random.default_rng(seed).integers(0, V, (2, S), dtype=np.int32)


def embed(model, params, x, segments=None, side="target"):
    return np.asarray(model.apply({"params": params}, x, segments, method=f"embed_{side}"))


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
def test_vectors_have_length_one_and_do_not_depend_on_padding(pooling):
    """KNOWN_BUGS 21."""
    model, params = made(pooling=pooling)
    want = embed(model, params, tokens())
    np.testing.assert_allclose(np.linalg.norm(want, axis=-1), 1, atol=1e-5)
    segments = np.pad(np.ones((2, S), np.int32), ((0, 0), (2, 3)))
    padded = np.pad(tokens(), ((0, 0), (2, 3)), constant_values=10**6)
    np.testing.assert_allclose(embed(model, params, padded, segments), want, atol=1e-5)
    assert not embed(model, params, padded, segments * 0).any()  # a text without a token is nowhere


def test_shared_towers_are_one_and_others_are_two():
    model, params = made()
    np.testing.assert_array_equal(embed(model, params, tokens()), embed(model, params, tokens(), side="source"))
    assert set(params) == {"target_tower", "log_scale"}
    model, params = made(source_vocab_size=V + 2, shared=False)
    assert set(params) == {"target_tower", "source_tower", "log_scale"}
    assert params["source_tower"]["encoder"]["token_embedding"]["embedding"].shape == (V + 2, 6)
    assert not np.allclose(embed(model, params, tokens()), embed(model, params, tokens(), side="source"))
    with pytest.raises(UserError, match="shared towers need one vocabulary, got 13 and 11"):
        made(source_vocab_size=V + 2)


def test_the_temperature_is_learned_or_fixed_and_bounded():
    model, params = made(temperature=0.05)
    assert float(model.apply({"params": params}, method="scale")) == pytest.approx(20, rel=1e-5)
    assert float(model.apply({"params": params | {"log_scale": jnp.float32(50)}}, method="scale")) == 100
    fixed, params = made(temperature=0.1, learn_temperature=False)
    assert "log_scale" not in params and float(fixed.apply({"params": params}, method="scale")) == pytest.approx(10)


def test_each_encoder_is_checked():
    complete = {name: field.default for name, field in lookup.fields("model", "dual_encoder").items()}
    assert lookup.problems("model", "dual_encoder", complete) == []
    assert len(lookup.problems("model", "dual_encoder", complete | dict(projection_dim=-1, temperature=0.0, dropout=1.0))) == 3
