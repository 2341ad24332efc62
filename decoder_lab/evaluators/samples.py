"""Text written by the model while it trains: not a number, but what people look at first."""

import dataclasses
import functools
from typing import Any

from decoder_lab.core.errors import UserError
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import Sampling


@dataclasses.dataclass
class Evaluator:
    """Continues each prompt once; the texts depend on the parameters, the prompts and the run's seed only.

    Attributes:
      context: given by the lab.
      prompts: texts to go on from; "" begins after eos; without one after a line break; without that too after token 0.
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
        tokenizer = self.context.tokenizer
        return Generator.from_model(self.context.model, eos_id=tokenizer.eos_id, decode=tokenizer.decode)

    def run(self, state: Any) -> dict[str, str]:
        """Returns {prompt number: prompt and its continuation}."""
        tokenizer = self.context.tokenizer
        prompts = [tokenizer.encode(p).tolist() if p else _beginning(tokenizer) for p in self.prompts]
        settings = Sampling(temperature=self.temperature, top_k=self.top_k)
        results = self._generator.generate(self.context.params(state), prompts, self.num_tokens, settings, seed=self.context.seed)
        return {str(i): prompt + found[0].text for i, (prompt, found) in enumerate(zip(self.prompts, results, strict=True))}


def _beginning(tokenizer: Any) -> list[int]:
    """Returns the ids that a new text is written after: a context needs at least one."""
    if tokenizer.eos_id is not None:
        return [tokenizer.eos_id]
    try:
        return tokenizer.encode("\n").tolist() or [0]
    except UserError:  # the vocabulary has no line break
        return [0]
