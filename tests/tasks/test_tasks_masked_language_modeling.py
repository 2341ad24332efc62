"""Masked language modelling: what is never hidden, and evaluation that is the same with every batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer.byte import Tokenizer
from decoder_lab.models.masked_lm import Model
from decoder_lab.tasks.masked_language_modeling import Task, problems

B, T = 6, 20
rng = np.random.default_rng(0)
BATCH = {"tokens": rng.integers(0, 256, (B, T)).astype(np.int32), "weights": np.ones((B, T), np.float32)}
BATCH["tokens"][:, 7] = 256  # the end of a text
BATCH["weights"][5] = 0  # a row that fills a batch


@pytest.fixture(scope="module")
def made():
    task = Task(Tokenizer())
    encoder = dict(name="transformer", kw=dict(num_layers=1, num_heads=2, width=16, dropout=0.2))
    model = Model(task.sizes()["vocab_size"], T, jnp.float32, encoder=encoder)
    params = jax.jit(lambda: model.init(jax.random.key(0), task.dummy(), True, method=task.forward))()["params"]
    return task, model, params, jax.jit(lambda p, b, rng: task.metrics(model, p, b, rng=rng))


def test_evaluation_is_the_same_in_every_batch_and_twice(made):
    """KNOWN_BUGS 3, 28."""
    _, _, params, metrics = made
    whole = metrics(params, BATCH, None)
    rows = [metrics(params, {k: v[i : i + 1] for k, v in BATCH.items()}, None) for i in range(B)]
    for name, (total, weight) in whole.items():
        np.testing.assert_allclose(total, sum(r[name][0] for r in rows), rtol=1e-5)
        assert weight == sum(r[name][1] for r in rows) == 5 * 3
    np.testing.assert_array_equal(whole["loss"], metrics(params, BATCH, None)["loss"])


def test_training_hides_anew_at_every_step_and_learns(made):
    _, _, params, metrics = made
    losses = [float(metrics(params, BATCH, jax.random.key(i))["loss"][0]) for i in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_ends_specials_and_padding_are_never_hidden():
    task = Task(Tokenizer(), rate=0.9, special_ids=(65,))
    batch = {**BATCH, "tokens": np.where(np.arange(T) == 3, 65, BATCH["tokens"]).astype(np.int32)}
    segments = np.where(np.arange(T) < 12, 1, 0)[None].repeat(B, 0).astype(np.int32)
    for extra, last in (({}, T), ({"segments": segments}, 12)):
        masked = task.hide({**batch, **extra}, jax.random.key(0))
        changed = np.asarray(masked.tokens_BT) != batch["tokens"]
        assert not changed[:, [3, 7]].any() and not changed[:, last:].any() and changed[:5, :12].any()
        assert (np.asarray(masked.tokens_BT) == 256 + 1).any()  # the mask's own id, above the tokenizer's


def test_the_mask_token_of_a_tokenizer_adds_none():
    assert Task(Tokenizer()).sizes()["vocab_size"] == 258
    assert Task(Tokenizer(), mask_id=0).sizes()["vocab_size"] == 257
    with pytest.raises(UserError, match="below 257"):
        Task(Tokenizer(), mask_id=257)
    assert len(problems(dict(rate=1.0, mask_share=0.9, random_share=0.2))) == 2
