"""Linear maps in 8 bits: near the exact product, only while training, never in the logits, and a model learns as well by them."""

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.layers import linear, quantized_product
from decoder_lab.parallel import topology
from decoder_lab.training import plan as plans

pytest.importorskip("qwix")
LIMITS = {"int8": 0.012, "float8": 0.07}  # relative errors: 7 bits and a sign, 3 (2 in gradients) bits and an exponent


def relative(got, wanted):
    return float(np.linalg.norm(np.asarray(got - wanted)) / np.linalg.norm(np.asarray(wanted)))


@pytest.mark.parametrize("form", LIMITS)
def test_products_and_gradients_are_near_the_exact_ones(form):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 16, 64), (64, 32)))
    x *= 10.0 ** jnp.arange(-2, 2)[:, None, None]  # rows of very different size have scales of their own

    def results(multiply):
        def loss(x, kernel):
            y = multiply(x, kernel, jnp.float32)
            return jnp.sum(jnp.sin(y / jnp.linalg.norm(x, axis=-1, keepdims=True))), y

        (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)
        return y, *gradients

    eight, exact = results(functools.partial(quantized_product.product, form=form)), results(linear.product)
    assert all(0 < relative(row, wanted) < LIMITS[form] for row, wanted in zip(eight[0], exact[0], strict=True))
    assert relative(eight[1], exact[1]) < LIMITS[form] and relative(eight[2], exact[2]) < LIMITS[form]


def planned(tmp_path, *overrides, devices=None):
    kw = dict(num_layers=2, num_heads=2, width=16, mlp="gelu", tie_embeddings=False)
    delta = dict(batch_size=8, sequence_length=8, lr=1e-2, schedule=dict(name="constant", kw={}), model=dict(name="decoder_only", kw=kw))
    return plans.Planned(config_lib.resolve(delta, overrides), tmp_path, print, devices or jax.devices()[:1], 32)


def test_only_training_and_not_the_logits(tmp_path):
    """Six linear maps a layer multiply in 8 bits: once forwards, once for the gradient of what they read."""
    experiment = planned(tmp_path, "matmul=int8")
    state, batch = experiment.state_shapes(), experiment.batch_shapes()[0]
    products = re.findall(r"stablehlo.dot_general.*?: \(([^)]*)\) ->", experiment.jitted_step().lower(state, batch).as_text())
    assert sum(types.count("xi8>") == 2 for types in products) == 2 * 2 * 6
    evaluate = jax.jit(lambda params, batch: experiment.task.metrics(experiment.model, params, batch))
    assert "i8>" not in evaluate.lower(state.params, batch).as_text()


def test_a_model_learns_as_well(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.cumsum(rng.integers(1, 3, (8, 9)), axis=1) % 32
    batch = {"tokens": rows[:, :-1].astype(np.int32), "labels": rows[:, 1:].astype(np.int32), "weights": np.ones((8, 8), np.float32)}
    losses = {}
    for matmul in ("dtype", "int8"):
        experiment = planned(tmp_path, f"matmul={matmul}", "total_steps=60", "model.kw.num_layers=1")
        state, step = experiment.init_state(), experiment.jitted_step()
        for _ in range(60):
            state, metrics = step(state, batch)
        total, weight = metrics["loss"]
        losses[matmul] = float(total / weight)
        assert all(leaf.dtype == jnp.float32 for leaf in tree.flatten(state.params).values())
    assert losses["dtype"] < 1.0 and 0 < abs(losses["int8"] - losses["dtype"]) < 0.05, losses


def test_a_missing_library_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "qwix", None)
    experiment = planned(tmp_path, "matmul=int8")
    with pytest.raises(UserError, match=r'matmul needs qwix.*pip install "decoder_lab\[quant\]"'):
        experiment.jitted_step().lower(experiment.state_shapes(), experiment.batch_shapes()[0])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, of the extra tpu, is not installed")
def test_the_compiler_for_tpus_multiplies_in_8_bits(tmp_path):
    chosen = topology.parse("v5e:2x2")
    topology.prepare(chosen)
    target = topology.target(chosen)
    sizes = "model.kw.width=256", "sequence_length=128", "dtype=bfloat16", "matmul=int8"
    _, text = plans.make(planned(tmp_path, *sizes, devices=target.devices), target)
    operands = re.findall(r"= s32\[[^\]]*\]\S* convolution\(", text)
    assert len(operands) >= 12
