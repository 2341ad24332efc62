"""Losses on pairs: values worked out by hand, gradients against finite differences, and the limits that the papers name."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.ops import preference

CHOSEN, REJECTED = np.array([-2.0, -5.0], np.float32), np.array([-4.0, -3.0], np.float32)
REFERENCE = np.array([-3.0, -4.0], np.float32), np.array([-3.0, -3.5], np.float32)
SIDES = (CHOSEN, REJECTED, *REFERENCE)
LOSSES = {
    "dpo": lambda c, r: preference.dpo(c, r, *REFERENCE, beta=0.5),
    "cdpo": lambda c, r: preference.dpo(c, r, *REFERENCE, beta=0.5, label_smoothing=0.1),
    "ipo": lambda c, r: preference.ipo(c, r, *REFERENCE, beta=0.5),
    "simpo": lambda c, r: preference.simpo(c, r, beta=2.0, target_margin=0.5),
    "orpo": lambda c, r: preference.orpo(c, r, beta=0.3),
    "bradley_terry": lambda c, r: preference.bradley_terry(c, r, margin=0.2),
}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_two_pairs_by_hand():
    """KNOWN_BUGS 25: log-ratios are 1 against -1, and -1 against 0.5; so the margins are 2 and -1.5 times beta."""
    found = preference.dpo(*SIDES, beta=0.5)
    np.testing.assert_allclose(found.margin_B, [1.0, -0.75])
    np.testing.assert_allclose(found.loss_B, [-math.log(sigmoid(1.0)), -math.log(sigmoid(-0.75))], rtol=1e-6)
    smoothed = preference.dpo(*SIDES, beta=0.5, label_smoothing=0.1)
    wanted = [-0.9 * math.log(sigmoid(m)) - 0.1 * math.log(sigmoid(-m)) for m in (1.0, -0.75)]
    np.testing.assert_allclose(smoothed.loss_B, wanted, rtol=1e-6)
    np.testing.assert_allclose(preference.ipo(*SIDES, beta=0.5).loss_B, [(2 - 1) ** 2, (-1.5 - 1) ** 2], rtol=1e-6)
    simpo = preference.simpo(CHOSEN, REJECTED, beta=2.0, target_margin=0.5)
    np.testing.assert_allclose(simpo.loss_B, [-math.log(sigmoid(2 * 2 - 0.5)), -math.log(sigmoid(2 * -2 - 0.5))], rtol=1e-6)
    odds = {x: math.exp(x) / (1 - math.exp(x)) for x in (-2.0, -3.0, -4.0, -5.0)}
    ratios = odds[-2.0] / odds[-4.0], odds[-5.0] / odds[-3.0]
    orpo = preference.orpo(CHOSEN, REJECTED, beta=0.3)
    wanted = [own - 0.3 * math.log(sigmoid(math.log(ratio))) for own, ratio in zip((2.0, 5.0), ratios, strict=True)]
    np.testing.assert_allclose(orpo.loss_B, wanted, rtol=1e-5)


def test_a_model_that_is_the_reference_has_loss_log_2_and_margin_0():
    found = preference.dpo(CHOSEN, REJECTED, CHOSEN, REJECTED, beta=0.7)
    np.testing.assert_allclose(found.loss_B, math.log(2), rtol=1e-6)
    assert not found.margin_B.any() and not found.chosen_B.any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences(name):
    loss, step = LOSSES[name], 1e-3
    with jax.enable_x64(True):
        sides = jnp.asarray(CHOSEN, jnp.float64), jnp.asarray(REJECTED, jnp.float64)
        for side in (0, 1):
            gradient = jax.jit(jax.grad(lambda *given: loss(*given).loss_B.sum(), argnums=side))(*sides)
            moved = [[x + sign * step * (i == side) for i, x in enumerate(sides)] for sign in (1, -1)]
            losses = [np.asarray(jax.jit(lambda *given: loss(*given).loss_B)(*given)) for given in moved]
            numeric = (losses[0] - losses[1]) / (2 * step)
            np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-7)


def test_certain_and_impossible_answers_stay_finite():
    """KNOWN_BUGS 7."""

    def everything(chosen_B, rejected_B):
        return {name: jax.value_and_grad(lambda c, f=loss: f(c, rejected_B).loss_B.sum())(chosen_B) for name, loss in LOSSES.items()}

    compiled = jax.jit(everything)
    for chosen, rejected in ((0.0, -1e4), (-1e4, 0.0)):
        found = compiled(jnp.full(2, chosen), jnp.full(2, rejected))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found)), found
