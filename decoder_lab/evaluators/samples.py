"""Text written by the model while it trains: not a number, but what people look at first."""

import dataclasses
import functools
from typing import Any

from decoder_lab.core.errors import UserError
from decoder_lab.decoding.batches import stack
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import Sampling


@dataclasses.dataclass
class Evaluator:
    """Continues each prompt once, or where the task is about pairs writes the target of each; depends on parameters, prompts and seed only.

    Attributes:
      context: given by the lab.
      prompts: texts to go on from; "" begins after eos; without one after a line break; without that too after token 0. Of a task about
        pairs they are sources.
      num_tokens: tokens at most, a prompt.
      temperature: 0 is greedy.
      top_k: only the k most probable tokens; 0 is off.
    """

    context: Any
    prompts: tuple[str, ...] = ("",)
    num_tokens: int = 100
    temperature: float = 0.8
    top_k: int = 0

    @functools.cached_property
    def _generator(self) -> Generator:
        return Generator.for_task(self.context.model, self.context.tokenizer, self.context.task)

    def run(self, state: Any) -> dict[str, str]:
        """Returns {prompt number: prompt and its continuation, or source and target}."""
        tokenizer, task = self.context.tokenizer, self.context.task
        settings = Sampling(temperature=self.temperature, top_k=self.top_k)
        write = functools.partial(self._generator.generate, self.context.params(state), num_tokens=self.num_tokens, settings=settings)
        if hasattr(task, "prompt"):
            made = [task.prompt({"source": p}) for p in self.prompts]
            sources = stack([m["inputs"] for m in made])
            results = write([m["tokens"] for m in made], seed=self.context.seed, inputs=sources)
            joints = [" -> "] * len(made)
        else:
            results = write([tokenizer.encode(p).tolist() if p else _beginning(tokenizer) for p in self.prompts], seed=self.context.seed)
            joints = [""] * len(results)
        parts = enumerate(zip(self.prompts, joints, results, strict=True))
        return {str(i): prompt + joint + found[0].text for i, (prompt, joint, found) in parts}


def _beginning(tokenizer: Any) -> list[int]:
    """Returns the ids that a new text is written after: a context needs at least one."""
    if tokenizer.eos_id is not None:
        return [tokenizer.eos_id]
    try:
        return tokenizer.encode("\n").tolist() or [0]
    except UserError:  # the vocabulary has no line break
        return [0]
