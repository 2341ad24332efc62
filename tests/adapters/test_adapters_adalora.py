"""AdaLoRA's budget: its schedule, whose ranks are kept, and that it ends where it was told to (KNOWN_BUGS 16)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.adapters.method.adalora import Adapter
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError

RANK, TARGET, TOTAL = 4, 2, 30
ADAPTER = Adapter(rank=RANK, target_rank=TARGET, warmup="5", final="10", every="3")
NUM_KERNELS = 2 + 3  # one alone, and three stacked


def params():
    rng = np.random.default_rng(0)

    def kernel(*lead):
        shapes = {"lora_p": (*lead, 6, RANK), "lora_lambda": (*lead, RANK), "lora_q": (*lead, RANK, 5)}
        return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}

    return {"one": kernel(), "other": kernel(), "layers": {"block": kernel(3)}}


def test_the_budget_falls_by_the_cube():
    """Equation 12: all ranks until t_i, the target from T - t_f on, between them (1 - share)^3 of the difference."""
    budgets = [int(ADAPTER.budget(jnp.asarray(t), NUM_KERNELS, TOTAL, int)) for t in range(TOTAL)]
    assert budgets[:6] == [RANK * NUM_KERNELS] * 6 and budgets[20:] == [TARGET * NUM_KERNELS] * 10
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[10] == int(np.ceil(10 + 10 * (1 - 5 / 15) ** 3))
    with pytest.raises(UserError, match="leave nothing of 12 steps"):
        ADAPTER.budget(jnp.asarray(0), NUM_KERNELS, 12, int)


def test_the_important_ranks_are_kept():
    """Those with large gradients times weights that vary; exactly the budget at every look, and nothing between."""
    state, current = ADAPTER.begin(params()), params()
    strong = jax.tree.map(lambda x: jnp.zeros_like(x), current)
    strong["one"]["lora_lambda"] = jnp.full((RANK,), 100.0)  # all four ranks of one kernel matter most
    follow = jax.jit(lambda state, p, g, step: ADAPTER.follow(state, p, g, step, TOTAL, int))
    counts = []
    for step in range(TOTAL):
        noise = jax.tree.map(lambda x, s=step: jnp.asarray(np.random.default_rng(s).standard_normal(x.shape), jnp.float32), current)
        grads = jax.tree.map(lambda s, n: n * (1.0 + s), strong, noise)
        state = follow(state, current, grads, jnp.asarray(step))
        counts.append(int(sum(x.sum() for x in jax.tree.leaves(state["kept"]))))
        current = ADAPTER.project(current, state)
        current = jax.tree.map(lambda x: x + 0.1, current)  # what was set to zero learns on
    for step in (5, 8, 11, 14, 17):
        assert counts[step] == int(ADAPTER.budget(jnp.asarray(step), NUM_KERNELS, TOTAL, int))
        assert counts[step] == counts[step + 1] == counts[step + 2]
    assert counts[20:] == [TARGET * NUM_KERNELS] * 10
    assert state["kept"]["one"]["lora_lambda"].sum() == RANK
    final = ADAPTER.project(current, state)
    assert sum(np.count_nonzero(x) for path, x in tree.flatten(final).items() if path.endswith("lambda")) == TARGET * NUM_KERNELS


def test_ties_are_no_way_around_the_budget():
    """Where nothing has a gradient all are equally important, and still exactly the budget is kept."""
    zeros = jax.tree.map(jnp.zeros_like, params())
    state = ADAPTER.follow(ADAPTER.begin(zeros), zeros, zeros, jnp.asarray(TOTAL - 1), TOTAL, int)
    assert sum(x.sum() for x in jax.tree.leaves(state["kept"])) == TARGET * NUM_KERNELS


def test_importance_is_that_of_the_paper():
    """Equations 8 to 11 by hand for one step."""
    adapter = Adapter(rank=1, target_rank=1, beta1=0.8, beta2=0.9)
    one = {"x": {"lora_p": jnp.full((2, 1), 3.0), "lora_lambda": jnp.full((1,), 2.0), "lora_q": jnp.full((1, 2), 1.0)}}
    grads = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), one)
    state = adapter.follow(adapter.begin(one), one, grads, jnp.asarray(0), 100, lambda duration: 10)
    sensitivity = state["sensitivity"]["x"]["lora_lambda"]
    np.testing.assert_allclose(sensitivity, 0.2 * 1.0, rtol=1e-6)
    np.testing.assert_allclose(state["uncertainty"]["x"]["lora_lambda"], 0.1 * (1.0 - 0.2), rtol=1e-6)


def test_the_penalty_is_zero_for_orthonormal_factors_only():
    p, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, RANK)))
    adapter = Adapter(rank=RANK, orthogonality=0.5)
    parts = {"lora_p": jnp.asarray(p, jnp.float32), "lora_lambda": jnp.ones(RANK), "lora_q": jnp.asarray(p.T, jnp.float32)}
    assert float(adapter.penalty({"x": parts})) == pytest.approx(0.0, abs=1e-10)
    parts["lora_p"] = parts["lora_p"] * 2.0  # P'P = 4 I
    assert float(adapter.penalty({"x": parts})) == pytest.approx(0.5 * 9 * RANK, rel=1e-5)
