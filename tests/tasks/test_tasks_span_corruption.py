"""Span corruption: two texts of fixed size from a row, shifted right, the same in every evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer.byte import Tokenizer
from decoder_lab.models.decoder_only import Model as DecoderOnly
from decoder_lab.models.encoder_decoder import Model
from decoder_lab.ops import corruption
from decoder_lab.tasks.span_corruption import Task

B, T = 5, 24
BATCH = {
    "tokens": np.random.default_rng(0).integers(0, 256, (B, T)).astype(np.int32),
    "weights": (np.arange(T)[None] < np.array([24, 24, 13, 1, 0])[:, None]).astype(np.float32),
}


@pytest.fixture(scope="module")
def made():
    task = Task(Tokenizer(), T, rate=0.4, mean_span=2.0, num_sentinels=5)
    side = dict(name="transformer", kw=dict(num_layers=1, num_heads=2, width=16))
    sizes = task.sizes()
    model = Model(sizes["vocab_size"], sizes["source_vocab_size"], T, jnp.float32, encoder=side, decoder=side, share_embeddings=True)
    params = jax.jit(lambda: model.init(jax.random.key(0), task.dummy(), True, method=task.forward))()["params"]
    return task, model, params, jax.jit(lambda p, b, rng: task.metrics(model, p, b, rng=rng))


def test_targets_are_shifted_right_and_padding_follows_places(made):
    """KNOWN_BUGS 9, 12: eos begins and ends the targets; padding is known by its place."""
    task, *_ = made
    assert task.sizes()["vocab_size"] == 262
    both = jax.tree.map(np.asarray, task.corrupted(BATCH, jax.random.key(0)))
    assert {k: v.shape for k, v in both.items()} == {
        **dict.fromkeys(("source", "source_segments"), (B, 20)),
        **dict.fromkeys(("tokens", "segments", "labels", "weights"), (B, 16)),
    }
    for row in range(3):
        size = int(both["segments"][row].sum())
        assert both["tokens"][row, 0] == 256 == both["labels"][row, size - 1]
        np.testing.assert_array_equal(both["tokens"][row, 1:size], both["labels"][row, : size - 1])
        assert both["labels"][row, 0] == 261 in both["source"][row]
    np.testing.assert_array_equal(both["weights"], both["segments"])
    assert both["segments"][:2].all() and not both["weights"][4].any() and not both["source_segments"][4].any()


def test_evaluation_is_the_same_in_every_batch_and_training_is_not(made):
    """KNOWN_BUGS 3, 7: a row of nothing else than padding is finite and counts for nothing."""
    _, _, params, metrics = made
    whole = metrics(params, BATCH, None)
    rows = [metrics(params, {k: v[i : i + 1] for k, v in BATCH.items()}, None) for i in range(B)]
    np.testing.assert_allclose(whole["nll"], np.sum([r["nll"] for r in rows], axis=0), rtol=1e-5)
    assert rows[4]["loss"][1] == 0 == rows[4]["loss"][0]
    assert metrics(params, BATCH, jax.random.key(0))["loss"][0] != metrics(params, BATCH, jax.random.key(1))["loss"][0]


def test_flops_are_of_the_two_texts_that_a_row_becomes(made):
    task, model, *_ = made
    size = corruption.span_sizes(20, task.rate, task.mean_span)
    assert task.flops_per_token(model, 20) == model.flops(size.inputs, size.targets) / 20 < model.flops_per_token(20)
    assert task.flops_per_token(object(), 20) is None


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="num_sentinels=2"):
        Task(Tokenizer(), 40, num_sentinels=1)
    assert Task(Tokenizer(), 40, num_sentinels=5, append_sentinels=False).sizes()["vocab_size"] == 257
    task, model = Task(Tokenizer(), 40), DecoderOnly(300, 8, jnp.float32)
    with pytest.raises(UserError, match="encoder_decoder"):
        model.init(jax.random.key(0), task.dummy(), True, method=task.forward)
