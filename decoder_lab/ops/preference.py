"""Losses on pairs of answers, one chosen and one rejected, from the log-probabilities that a model gives them.

Every function returns float32 arrays [B], a pair each: the loss, and the implicit reward of either answer, of which the chosen one's is to
be the greater. Log-probabilities are of whole answers: sums over their tokens (DPO, IPO) or means (SimPO, ORPO), as the papers have them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Pairs(NamedTuple):
    """What became of each pair."""

    loss_B: jax.Array
    chosen_B: jax.Array  # implicit reward
    rejected_B: jax.Array

    @property
    def margin_B(self) -> jax.Array:
        """How much more the chosen answer is rewarded."""
        return self.chosen_B - self.rejected_B


def dpo(
    chosen_B: jax.Array,
    rejected_B: jax.Array,
    reference_chosen_B: jax.Array,
    reference_rejected_B: jax.Array,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Pairs:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7): -log sigmoid of the margin of beta log(p / reference), on sums.

    With label_smoothing e the pairs are believed to be swapped with probability e: the conservative DPO of Mitchell 2023.
    """
    rewards = beta * (chosen_B - reference_chosen_B), beta * (rejected_B - reference_rejected_B)
    margin_B = rewards[0] - rewards[1]
    loss_B = -(1 - label_smoothing) * jax.nn.log_sigmoid(margin_B) - label_smoothing * jax.nn.log_sigmoid(-margin_B)
    return Pairs(loss_B, *rewards)


def ipo(
    chosen_B: jax.Array, rejected_B: jax.Array, reference_chosen_B: jax.Array, reference_rejected_B: jax.Array, *, beta: float
) -> Pairs:
    """Identity preference optimisation (Azar et al. 2023, eq. 17), on sums: the log-ratios shall differ by 1 / (2 beta), their tau."""
    ratios = chosen_B - reference_chosen_B, rejected_B - reference_rejected_B
    return Pairs(jnp.square(ratios[0] - ratios[1] - 1 / (2 * beta)), beta * ratios[0], beta * ratios[1])


def simpo(chosen_B: jax.Array, rejected_B: jax.Array, *, beta: float, target_margin: float) -> Pairs:
    """SimPO (Meng et al. 2024, eq. 6), on means and without a reference: -log sigmoid(beta (chosen - rejected) - target margin)."""
    rewards = beta * chosen_B, beta * rejected_B
    return Pairs(-jax.nn.log_sigmoid(rewards[0] - rewards[1] - target_margin), *rewards)


def orpo(chosen_B: jax.Array, rejected_B: jax.Array, *, beta: float) -> Pairs:
    """ORPO (Hong et al. 2024, eq. 6-7), on means, without a reference: -log p of the chosen answer - beta log sigmoid(log odds ratio)."""
    rewards = beta * log_odds(chosen_B), beta * log_odds(rejected_B)
    ratio_B = log_odds(chosen_B) - log_odds(rejected_B)
    return Pairs(-chosen_B - beta * jax.nn.log_sigmoid(ratio_B), *rewards)


def log_odds(log_p: jax.Array) -> jax.Array:
    """Returns log(p / (1 - p)) of log p <= 0; where p rounds to 1 it and its gradient stay finite."""
    log_p = jnp.minimum(log_p, -1e-6)
    return log_p - jnp.log(-jnp.expm1(log_p))


def bradley_terry(chosen_B: jax.Array, rejected_B: jax.Array, *, margin: float = 0.0) -> Pairs:
    """The loss of a reward model on its scores (Ouyang et al. 2022, eq. 1): -log sigmoid(chosen - rejected - margin)."""
    return Pairs(-jax.nn.log_sigmoid(chosen_B - rejected_B - margin), chosen_B, rejected_B)
