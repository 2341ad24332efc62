"""Student against teacher: a loop over NumPy, nothing where they agree, and no gradient for the teacher."""

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.ops import distillation

RNG = np.random.default_rng(0)
TEACHER, STUDENT = (RNG.normal(size=(2, 3, 5)).astype(np.float32) for _ in range(2))
WEIGHTS = np.array([[1, 0.5, 0], [2, 0, 1]], np.float32)


def test_divergence_and_distance_are_those_of_a_loop():
    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    kl = square = 0.0
    for b, t in np.ndindex(2, 3):
        p, q = softmax(TEACHER[b, t] / 2.0), softmax(STUDENT[b, t] / 2.0)
        kl += WEIGHTS[b, t] * (p * np.log(p / q)).sum()
        square += WEIGHTS[b, t] * ((TEACHER[b, t] - STUDENT[b, t]) ** 2).mean()
    found = jax.jit(lambda *given: distillation.divergence(*given, temperature=2.0))(TEACHER, STUDENT, WEIGHTS)
    np.testing.assert_allclose(found, [kl, WEIGHTS.sum()], rtol=1e-5)
    np.testing.assert_allclose(jax.jit(distillation.distance)(STUDENT, TEACHER, WEIGHTS), [square, WEIGHTS.sum()], rtol=1e-5)


def test_a_student_that_says_the_same_has_no_loss_and_no_gradient():
    def both(teacher, student):
        return distillation.divergence(teacher, student, WEIGHTS, temperature=3.0)[0]

    value, gradients = jax.jit(jax.value_and_grad(both, argnums=(0, 1)))(TEACHER, TEACHER + 1.0)  # logits of the same probabilities
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    assert not gradients[0].any() and np.abs(gradients[1]).max() < 1e-6
    assert np.abs(jax.jit(jax.grad(both, argnums=1))(TEACHER, STUDENT)).max() > 1e-2


def test_what_has_no_weight_may_be_anything():
    """KNOWN_BUGS 7."""
    broken = np.where(WEIGHTS[..., None] == 0, np.inf, STUDENT).astype(np.float32)
    found = jax.jit(lambda x: distillation.divergence(TEACHER, x, WEIGHTS, temperature=1.0)[0])(broken)
    np.testing.assert_allclose(found, distillation.divergence(TEACHER, jnp.asarray(STUDENT), WEIGHTS, temperature=1.0)[0], rtol=1e-5)
