"""Knowledge distillation: a model learns a task from its data and from what another run's model, the teacher, says of them.

Raw items and batch keys are those of the task inside, `task.kw.task`, whose `forward` gives logits [..., C] where its "weights" are [...]:
language models and classifiers, among others. The teacher's parameters are given under "teacher" beside the student's; they are not
trained, nor in a checkpoint.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.core.lookup import Plugin
from decoder_lab.ops import distillation

NUMBERS = ("loss", "kl", "hidden")  # of evaluation

TEACHER = "teacher"  # where its parameters lie
PROJECTION = "distillation_projection"  # parameter: student's hidden width to the teacher's
STACKS = ("encoder", "decoder", "recurrent")  # parts of a model whose values are its hidden states


def problems(kw) -> list[str]:
    """Ranges, a teacher, and that the task inside shows its logits."""
    found = [] if kw["workdir"] else ["no teacher: set workdir to the folder of its run"]
    if not 0 <= kw["alpha"] <= 1:
        found.append(f"alpha: got {kw['alpha']}, expected a share in [0, 1].")
    if kw["temperature"] <= 0:
        found.append(f"temperature: got {kw['temperature']}, expected more than 0.")
    if kw["hidden_weight"] < 0:
        found.append(f"hidden_weight: got {kw['hidden_weight']}, expected 0 or more.")
    inside = kw["task"]
    if inside["name"] == "distillation":
        found.append("task: a task inside distillation cannot be distillation itself.")
    if inside["kw"].get("loss_chunk"):
        found.append("task.kw.loss_chunk: the teacher's logits are compared whole: leave it at 0.")
    return found


@dataclasses.dataclass(frozen=True)
class Task:
    """A task whose loss is (1 - alpha) * its own + alpha * T^2 * KL(teacher || student) + hidden_weight * mean squared difference.

    The KL is of logits divided by the temperature T (Hinton et al. 2015), the difference that of hidden states (Romero et al. 2015).

    Attributes:
      tokenizer, source_tokenizer, length: given by the lab.
      teacher: given by the lab: the other run's model.
      workdir: folder of the teacher's run, which must have this run's tokenizer and, of a task with labels, its labels.
      checkpoint: which of its checkpoints: "best", "latest" or a step.
      task: what is learned, and predicted.
      alpha: how much the teacher counts against the data.
      temperature: above 1 the less probable answers count for more.
      hidden_weight: of the values of the last layer, the student's brought to the teacher's width by a learned projection; 0: not compared.
    """

    tokenizer: Any
    source_tokenizer: Any
    length: int
    teacher: Any
    workdir: str = ""
    checkpoint: str = "best"
    task: Plugin["task"] = dataclasses.field(default_factory=lambda: dict(name="language_modeling", kw={}))
    alpha: float = 0.5
    temperature: float = 2.0
    hidden_weight: float = 0.0

    @functools.cached_property
    def inside(self) -> Any:
        """The task that is learned."""
        if not hasattr(self, "tokenizer"):  # asked before there is a tokenizer, for what one is to learn from
            name, kw = lookup.part(self.task)
            made = object.__new__(lookup.find("task", name))
            for key, value in kw.items():
                object.__setattr__(made, key, value)
            return made
        return lookup.make("task", self.task, tokenizer=self.tokenizer, source_tokenizer=self.source_tokenizer, length=self.length)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("inside", "task", "tokenizer"):
            raise AttributeError(name)
        return getattr(self.inside, name)  # example, texts, fit, predict, prompt, ...: all else is the task's own

    def forward(self, model: Any, batch: dict, deterministic: bool) -> jax.Array:
        """What the task's own gives; while parameters are drawn, the projection among them."""
        if self.hidden_weight and model.is_initializing():
            widths = self._width(model.clone(parent=None)), self._width(self.teacher)
            model.scope.param(PROJECTION, nn.initializers.normal(widths[0] ** -0.5), widths, jnp.float32)
        return self.inside.forward(model, batch, deterministic)

    def _width(self, model: Any) -> int:
        """Returns the width of a model's hidden states."""
        if hasattr(model, "encode"):
            raise UserError("distillation: hidden states of a model with both sides are not compared: set hidden_weight=0.")
        asked = dict(method=self.inside.forward, mutable=True, capture_intermediates=_is_stack)
        found = jax.eval_shape(lambda key: model.init_with_output(key, self.inside.dummy(), True, **asked)[1], jax.random.key(0))
        return _hidden(found).shape[-1]

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns the task's {name: (sum, weight)}, "loss" with the teacher's part in it, "task_loss" without, "kl" and "hidden"."""
        if TEACHER not in params:
            raise ValueError("distillation: the parameters of the teacher are missing")
        student = {name: value for name, value in params.items() if name != TEACHER}
        heard = _Heard(model, bool(self.hidden_weight))
        found = self.inside.metrics(heard, student, batch, rng=rng, progress=progress)
        shown, rest, logits, hidden = heard.only()
        asked = dict(capture_intermediates=_is_stack, mutable=["intermediates"]) if self.hidden_weight else {}
        teacher = jax.lax.stop_gradient(params[TEACHER])
        said = self.teacher.apply({"params": teacher}, shown, True, *rest, method=self.inside.forward, **asked)
        said, sown = said if self.hidden_weight else (said, {})
        weights = shown["weights"].astype(jnp.float32)
        if said.shape != logits.shape or weights.shape != logits.shape[:-1]:
            raise UserError(
                f"distillation: the student's logits are {list(logits.shape)}, the teacher's {list(said.shape)}, weights "
                f"{list(weights.shape)}: both must say the same of the same places. Take a teacher of the same vocabulary or labels, and a "
                "task whose logits stand where its weights do, such as language_modeling or classification."
            )
        if (places := weights).ndim == 1:  # of texts: a text's mean counts as the text does, in whichever micro-batch it is
            real_BS = shown["segments"] != 0
            places = weights[:, None] * real_BS / jnp.maximum(jnp.sum(real_BS, axis=1, keepdims=True), 1)
        return self._joined(found, logits, said, weights, hidden, sown, places, student)

    def _joined(self, found: dict, logits, said, weights, hidden, sown, places, student: dict) -> dict[str, tuple]:
        """Sums of everything, the teacher's parts brought to the weight of the task's own loss, so that the mean is that of the means."""
        loss, weight = found["loss"]
        kl = distillation.divergence(said, logits, weights, temperature=self.temperature)
        share = weight / jnp.maximum(kl[1], 1e-6)
        total = (1 - self.alpha) * loss + self.alpha * self.temperature**2 * kl[0] * share
        joined = {**found, "task_loss": found["loss"], "kl": kl}
        if self.hidden_weight:
            apart = distillation.distance(hidden.astype(jnp.float32) @ student[PROJECTION], _hidden(sown), places)
            total += self.hidden_weight * apart[0] * weight / jnp.maximum(apart[1], 1e-6)
            joined["hidden"] = apart
        return {**joined, "loss": (total, weight)}

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means: the task's own, as they would be without a teacher, and how far the student is from it."""
        own = {name: value for name, value in means.items() if name not in ("task_loss", "kl", "hidden")}
        apart = {name: means[name] for name in ("kl", "hidden") if name in means}
        return {**self.inside.summary({**own, "loss": means["task_loss"]}, rows), **apart}

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        return self.inside.fingerprint()


class _Heard:
    """Stands for the student where the task applies it, and keeps what it was shown and what it said."""

    def __init__(self, model: Any, with_hidden: bool):
        self._model, self._with_hidden, self._calls = model, with_hidden, []

    def apply(self, variables: dict, batch: Any, deterministic: Any = True, *rest: Any, **kwargs: Any) -> Any:
        hidden = None
        if self._with_hidden:
            kwargs |= dict(capture_intermediates=_is_stack, mutable=["intermediates"])
        outputs = self._model.apply(variables, batch, deterministic, *rest, **kwargs)
        if self._with_hidden:
            outputs, sown = outputs
            hidden = _hidden(sown)
        self._calls.append((batch, rest, outputs, hidden))
        return outputs

    def only(self) -> tuple:
        """Returns (the batch, further arguments, logits, hidden states) of the one call that there was."""
        if len(self._calls) != 1 or not hasattr(self._calls[0][2], "shape"):
            raise UserError("distillation: the task inside must look at its model once, for one array of logits; take another task.")
        return self._calls[0]


def _is_stack(module: nn.Module, method: str) -> bool:
    return method == "__call__" and len(module.path) == 1 and module.path[0] in STACKS


def _hidden(variables: dict) -> jax.Array:
    """Returns the values of a model's encoder or decoder."""
    sown = variables.get("intermediates", {})
    name = next((name for name in STACKS if name in sown), None)
    if name is None:
        raise UserError(f"distillation: this model has no {' or '.join(STACKS)} to take hidden states of: set hidden_weight=0.")
    value = sown[name]["__call__"][0]
    for field in ("values_BSD", "state_BTW"):
        value = getattr(value, field, value)
    while isinstance(value, tuple):
        value = value[0]
        value = getattr(value, "state_BTW", value)
    return value
