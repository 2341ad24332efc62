"""AdaLoRA (Zhang et al. 2023): W + s P diag(lambda) Q, and the ranks go where they matter, within a budget for the whole model.

Every kernel begins with `rank` ranks. The budget of all kernels together falls by their cubic schedule (eq. 12) from all of them to
`target_rank` times the number of kernels; every `every` steps the least important ranks above it are set to zero (eq. 6). A rank's
importance is that of its lambda plus the means of its vectors' (eq. 9), a parameter's is smoothed |w dL/dw| times its smoothed uncertainty
(eq. 8-11). All of it happens inside the training step. A rank that was set to zero learns on and may come back until the last `final`
steps, in which the ranks are fixed: then exactly the budget is left.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from decoder_lab.adapters import base, low_rank
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Duration
from decoder_lab.layers.linear import Linear

BLOCK = ("lora_p", "lora_lambda", "lora_q")


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = [f"{name} must be at least 1, got {kw[name]}" for name in ("rank", "target_rank") if kw[name] < 1]
    if not found and kw["target_rank"] > kw["rank"]:
        found.append(f"target_rank {kw['target_rank']} is more than the rank {kw['rank']} that every kernel begins with")
    found += [f"{name} must be at least 0 and below 1, got {kw[name]}" for name in ("dropout", "beta1", "beta2") if not 0 <= kw[name] < 1]
    if kw["orthogonality"] < 0:
        found.append(f"orthogonality must be at least 0, got {kw['orthogonality']}")
    return found


@dataclasses.dataclass(frozen=True)
class Adapter(low_rank.LowRank):
    """P [in, r] and Q [r, out] begin normally distributed, lambda at zero.

    Attributes:
      rank: of every kernel at the beginning; half as much again as target_rank in the paper.
      target_rank: of a kernel at the end, on average.
      alpha: the product counts alpha / rank times, from beginning to end.
      warmup: time with all ranks.
      final: time at the end with the final ones.
      every: time between two looks.
      beta1, beta2: smoothing of sensitivity and of uncertainty.
      orthogonality: weight of the mean of ||P'P - I||^2 + ||QQ' - I||^2 over kernels, added to the training loss only (eq. 4).
    """

    rank: int = 12
    target_rank: int = 8
    alpha: float = 16.0
    warmup: Duration = "10%"
    final: Duration = "30%"
    every: Duration = "1%"
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.1

    PARTS = BLOCK

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank

    def parts(self, kernel: jax.Array, key: jax.Array) -> low_rank.Parts:
        lead, (in_dim, out_dim) = kernel.shape[:-2], kernel.shape[-2:]
        p = low_rank.narrow(in_dim**-0.5, key, kernel, (in_dim, self.rank))
        q = low_rank.narrow(out_dim**-0.5, jax.random.fold_in(key, 1), kernel, (self.rank, out_dim))
        return {"lora_p": p, "lora_lambda": jnp.zeros((*lead, self.rank), jnp.float32), "lora_q": q}

    def changed(self, kernel: jax.Array, parts: low_rank.Parts) -> jax.Array:
        return kernel + self.scale * ((parts["lora_p"] * parts["lora_lambda"][..., None, :]) @ parts["lora_q"])

    def output(self, module: Linear, x: jax.Array, y: jax.Array, parts: low_rank.Parts) -> jax.Array:
        narrow = low_rank.product(x, parts["lora_p"]) * (self.scale * parts["lora_lambda"]).astype(x.dtype)[(None,) * (x.ndim - 1)]
        return y + low_rank.product(narrow, parts["lora_q"]).astype(y.dtype)

    def penalty(self, params: Any) -> jax.Array | None:
        if not self.orthogonality:
            return None
        flat, found = tree.flatten(params), []
        for _, names in self.sites(params):
            p, q = flat[names["lora_p"]], flat[names["lora_q"]]
            identity = jnp.broadcast_to(jnp.eye(self.rank), (*p.shape[:-2], self.rank, self.rank))
            gram_p, gram_q = jnp.einsum("...ir,...is->...rs", p, p), jnp.einsum("...ro,...so->...rs", q, q)
            off = jnp.sum(jnp.square(gram_p - identity) + jnp.square(gram_q - identity), axis=(-2, -1))
            found.append(off.reshape(-1))
        return self.orthogonality * jnp.mean(jnp.concatenate(found))

    # --- the ranks ---

    def begin(self, params: Any) -> dict:
        """Returns {"sensitivity", "uncertainty": of every parameter; "kept": float32 1 or 0 of every rank, like lora_lambda}."""
        flat = tree.flatten(params)
        own = {at: flat[at] for _, names in self.sites(params) for at in names.values()}
        zeros = {at: jnp.zeros_like(leaf) for at, leaf in own.items()}
        kept = {at: jnp.ones_like(leaf) for at, leaf in own.items() if at.endswith("lora_lambda")}
        return {"sensitivity": tree.nest(zeros), "uncertainty": jax.tree.map(jnp.copy, tree.nest(zeros)), "kept": tree.nest(kept)}

    def budget(self, step: jax.Array, num_kernels: int, total_steps: int, steps: Callable[[str], int]) -> jax.Array:
        """Returns the int32 number of ranks that may be left after `step` (0, 1, ...)."""
        first, last = self._phases(total_steps, steps)
        share = jnp.clip((step.astype(jnp.float32) - first) / max(last - first, 1), 0.0, 1.0)
        whole, target = self.rank * num_kernels, self.target_rank * num_kernels
        return jnp.ceil(target + (whole - target) * (1.0 - share) ** 3).astype(jnp.int32)

    def _phases(self, total_steps: int, steps: Callable[[str], int]) -> tuple[int, int]:
        """Returns the steps at which the budget begins to fall, and from which it is the final one."""
        first, last = steps(self.warmup), min(total_steps - steps(self.final), total_steps - 1)
        if not first <= last:
            raise UserError(
                f'adapt: adalora: warmup "{self.warmup}" ({first} steps) and final "{self.final}" leave nothing of {total_steps} steps in '
                "which the budget could fall. Make them shorter."
            )
        return first, last

    def follow(self, memory: dict, params: Any, grads: Any, step: jax.Array, total_steps: int, steps: Callable[[str], int]) -> dict:
        weights, gradients = tree.flatten(params), tree.flatten(grads)
        before = {name: tree.flatten(memory[name]) for name in memory}
        sensitivity, uncertainty = {}, {}
        for at, old in before["sensitivity"].items():
            now = jnp.abs(weights[at] * gradients[at])
            sensitivity[at] = self.beta1 * old + (1 - self.beta1) * now
            spread = jnp.abs(now - sensitivity[at])
            uncertainty[at] = self.beta2 * before["uncertainty"][at] + (1 - self.beta2) * spread
        score = {}
        for _, names in self.sites(params):
            p, own, q = (sensitivity[names[part]] * uncertainty[names[part]] for part in BLOCK)
            score[names["lora_lambda"]] = own + jnp.mean(p, axis=-2) + jnp.mean(q, axis=-1)
        kept = self._allocated(score, before["kept"], step, total_steps, steps)
        return {"sensitivity": tree.nest(sensitivity), "uncertainty": tree.nest(uncertainty), "kept": tree.nest(kept)}

    def _allocated(self, score: dict, kept: dict, step: jax.Array, total_steps: int, steps: Callable[[str], int]) -> dict:
        """Returns which ranks are kept: the best of all kernels within the budget, chosen anew where a look is due."""
        first, last = self._phases(total_steps, steps)
        paths = sorted(score)
        scores_R = jnp.concatenate([score[at].reshape(-1) for at in paths])
        old_R = jnp.concatenate([kept[at].reshape(-1) for at in paths])
        budget = self.budget(step, scores_R.shape[0] // self.rank, total_steps, steps)
        place_R = jnp.argsort(jnp.argsort(-scores_R, stable=True), stable=True)  # ties by order: exactly the budget is kept
        new_R = (place_R < budget).astype(jnp.float32)
        looks = (step >= first) & (step < last) & ((step - first) % max(steps(self.every), 1) == 0)
        looks |= (step >= last) & (jnp.sum(old_R) != budget)
        chosen_R, cut, found = jnp.where(looks, new_R, old_R), 0, {}
        for at in paths:
            found[at] = chosen_R[cut : cut + score[at].size].reshape(score[at].shape)
            cut += score[at].size
        return found

    def project(self, params: Any, memory: dict) -> Any:
        """Sets lambda of ranks that are not kept to zero."""
        flat = tree.flatten(params)
        return base.insert(params, {at: flat[at] * kept for at, kept in tree.flatten(memory["kept"]).items()})
