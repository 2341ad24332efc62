"""A full pass gives one number, whatever the batch size and the last partial batch (KNOWN_BUGS 3); evaluation has no dropout (28)."""

import jax
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.evaluators import mean
from decoder_lab.training import experiment as experiments


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    (folder / "val.txt").write_text("pack my box with five dozen liquor jugs. " * 17)
    config = config_lib.resolve(
        dict(
            batch_size=8,
            sequence_length=16,
            data=dict(source=dict(name="text", kw=dict(train=str(folder / "train.txt"), validation=str(folder / "val.txt")))),
            model=dict(name="decoder_only", kw=dict(num_layers=1, num_heads=2, width=16, dropout=0.5)),
        )
    )
    experiment = experiments.Experiment(config, folder / "run", report=lambda line: None)
    return experiment, experiment.init_state()


@pytest.mark.parametrize("batch_size", [8, 24, 64, 7])
def test_equal_for_every_batch_size(made, batch_size):
    experiment, state = made
    context = experiments.Context(experiment)
    whole = mean.Evaluator(context, batch_size=512).run(state)
    found = mean.Evaluator(context, batch_size=batch_size).run(state)
    assert found.keys() == whole.keys() >= {"loss", "perplexity", "accuracy", "bits_per_byte"}
    for name, value in whole.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name  # perplexity multiplies the rounding of the loss


def test_equals_a_plain_sum_over_tokens(made):
    """One row at a time, without padding or batches: the same nats a token, perplexity and bits per byte."""
    experiment, state = made
    rows = experiment.rows("validation")
    apply = jax.jit(lambda params, tokens: experiment.model.apply({"params": params}, tokens)[0])
    nats, count, correct = 0.0, 0, 0
    for i in range(rows.rows(None, 0)):
        row = rows.take(np.array([i]), None, 0)
        logits = np.asarray(apply(state.params, row["tokens"]), np.float64)[0]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        real = row["weights"][0] > 0
        nats -= log_probs[np.arange(16), row["labels"][0]][real].sum()
        correct += (logits.argmax(-1) == row["labels"][0])[real].sum()
        count += real.sum()
    found = mean.Evaluator(experiments.Context(experiment)).run(state)
    size = len("pack my box with five dozen liquor jugs. " * 17)
    assert count == size  # every byte but the first, and the end of the text
    assert found["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(nats / count), rel=1e-5)
    assert found["accuracy"] == pytest.approx(correct / count)
    assert found["bits_per_byte"] == pytest.approx(nats / np.log(2) / size, rel=1e-5)


def test_twice_is_the_same_and_a_limit_counts_rows(made):
    experiment, state = made
    evaluator = mean.Evaluator(experiments.Context(experiment), limit=5)
    first = evaluator.run(state)
    assert evaluator.run(state) == first
    assert mean.Evaluator(experiments.Context(experiment), limit=5, batch_size=32).run(state)["loss"] == pytest.approx(
        first["loss"], rel=1e-6
    )
