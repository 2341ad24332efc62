"""Text written by the model while it trains: not a number, but what people look at first."""

import dataclasses
import functools
from typing import Any

from decoder_lab.core.errors import UserError
from decoder_lab.data import marks
from decoder_lab.decoding.batches import stack
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import Sampling

SHOWN = 2  # items of a task about pairs, where no prompt is given


@dataclasses.dataclass
class Evaluator:
    """Continues each prompt once, or where the task is about pairs writes the target of each; depends on parameters, prompts and seed only.

    Attributes:
      context: given by the lab.
      prompts: texts to go on from, behind what the tokenizer puts before a text. "" stands for that alone, or the first of these that the
        tokenizer has: eos, a line break, token 0. Of a task about pairs they are sources; an empty one stands for the validation split's
        first items.
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

    def idle(self) -> str:
        """Returns why there is nothing to do; "" where there is."""
        return "" if hasattr(self.context.model, "init_cache") else "this model writes no text"

    def _items(self) -> list[dict]:
        """Returns the raw items of a task about pairs that are shown."""
        if any(self.prompts):
            return [{"source": prompt} for prompt in self.prompts]
        items = self.context.items("validation")
        pair = getattr(self.context.task, "pair", lambda raw: raw)  # of a conversation, its last question and the answer
        return [pair(items[i]) for i in range(min(SHOWN, len(items)))]

    def run(self, state: Any) -> dict[str, str]:
        """Returns {prompt number: prompt and its continuation, or source and target}."""
        tokenizer, task, prompts = self.context.tokenizer, self.context.task, self.prompts
        settings = Sampling(temperature=self.temperature, top_k=self.top_k)
        write = functools.partial(self._generator.generate, self.context.params(state), num_tokens=self.num_tokens, settings=settings)
        if hasattr(task, "prompt"):
            items = self._items()
            made, prompts = [task.prompt(raw) for raw in items], [str(raw.get("source", "")) for raw in items]
            sources = stack([m["inputs"] for m in made])
            results = write([m["tokens"] for m in made], seed=self.context.seed, inputs=sources)
            joints = [" -> "] * len(made)
        else:
            results = write([_beginning(tokenizer, p) for p in self.prompts], seed=self.context.seed)
            joints = [""] * len(results)
        parts = enumerate(zip(prompts, joints, results, strict=True))
        return {str(i): prompt + joint + found[0].text for i, (prompt, joint, found) in parts}


def _beginning(tokenizer: Any, prompt: str = "") -> list[int]:
    """Returns the ids that a text is written after: a context needs at least one."""
    ids = [*marks.around(tokenizer)[0].tolist(), *(tokenizer.encode(prompt).tolist() if prompt else ())]
    if ids:
        return ids
    if tokenizer.eos_id is not None:
        return [tokenizer.eos_id]
    try:
        return tokenizer.encode("\n").tolist() or [0]
    except UserError:  # the vocabulary has no line break
        return [0]


def numbers(kw, task) -> list[str]:
    """None: it shows something."""
    return []
