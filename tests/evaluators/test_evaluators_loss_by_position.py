"""The loss by place: parts add up to the mean, and each is that of its places alone."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.tokenizer.byte import Tokenizer
from decoder_lab.evaluators import token_loss
from decoder_lab.evaluators.loss_by_position import Evaluator, problems
from decoder_lab.models.decoder_only import Model
from decoder_lab.ops.cross_entropy import cross_entropy
from decoder_lab.parallel import mesh as meshes
from decoder_lab.tasks import masked_language_modeling
from decoder_lab.tasks.language_modeling import Task

ROWS = np.random.default_rng(0).integers(0, 256, (5, 13)).astype(np.int32)


class Rows:
    def rows(self, epoch, seed):
        return len(ROWS)

    def take(self, rows_B, epoch, seed):
        return dict(tokens=ROWS[rows_B][:, :-1], labels=ROWS[rows_B][:, 1:], weights=np.ones((len(rows_B), 12), np.float32))


def context(rows):
    model, task = Model(257, 12, jnp.float32, num_layers=1, num_heads=2, width=8, init_stddev=0.3), Task(Tokenizer())
    params = jax.jit(lambda: model.init(jax.random.key(0), task.dummy(), True, method=task.forward))()["params"]
    mesh = meshes.make_mesh(jax.devices()[:1])
    given = dict(model=model, task=task, mesh=mesh, batch_size=2, max_length=12, rows=lambda split: rows, params=lambda state: state)
    return types.SimpleNamespace(**given, compiled=jax.jit), params


def test_each_part_is_the_mean_of_its_places():
    about, params = context(Rows())
    found = Evaluator(about, borders=(4, 8)).run(params)
    batch = Rows().take(np.arange(5), None, 0)
    logits = jax.jit(lambda tokens: about.model.apply({"params": params}, tokens)[0])(batch["tokens"])
    for name, part in (("0-3", slice(0, 4)), ("4-7", slice(4, 8)), ("8-11", slice(8, 12)), ("beyond", slice(4, 12))):
        sums = cross_entropy(logits[:, part], batch["labels"][:, part])
        np.testing.assert_allclose(found[name], sums.nll / sums.weight, rtol=1e-5)
    assert len(found) == 4


def test_what_has_no_places_is_refused():
    class Labels(Rows):
        def take(self, rows_B, epoch, seed):
            return dict(tokens=ROWS[rows_B], weights=np.ones(len(rows_B), np.float32))

    about, params = context(Labels())
    with pytest.raises(UserError, match="no loss at each place"):
        Evaluator(about).run(params)
    masked = types.SimpleNamespace(task=masked_language_modeling.Task(Tokenizer()), rows=lambda split: Rows(), mesh=about.mesh)
    for evaluator in (Evaluator, token_loss.Evaluator):  # the batch's weights say where may be masked, not what was: a loss of 0 everywhere
        with pytest.raises(UserError, match="this task has no loss at each"):
            evaluator(types.SimpleNamespace(**{**vars(about), **vars(masked)})).run(params)
    assert problems(dict(borders=(4, 4), limit=0, batch_size=None)) and not problems(dict(borders=(4, 5), limit=None, batch_size=1))
