"""Generation for a whole data set: prompts of many lengths in few batches, and no text depends on which batch it was written in."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from decoder_lab.decoding.context import bucket
from decoder_lab.decoding.generate import Generation, Generator
from decoder_lab.decoding.settings import GREEDY, Beam, Sampling
from decoder_lab.parallel import processes

EXTRA = 10  # tokens that a short source may have more than its share


def stack(inputs: Sequence[Mapping[str, np.ndarray] | None]) -> dict[str, np.ndarray] | None:
    """Returns encoder features of several prompts as one batch of arrays, padded with 0 on axis 1; None where there are none."""
    if inputs[0] is None:
        return None
    batch = {}
    for name in inputs[0]:
        arrays = [np.asarray(features[name]) for features in inputs]
        widest = max(1, *(len(array) for array in arrays))
        batch[name] = np.stack([np.pad(a, [(0, widest - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in arrays])
    return batch


def source_length(prompt: Mapping[str, Any]) -> int:
    """Returns how many tokens a prompt of `Task.prompt` has to be written from: its source, or without one the prompt itself."""
    return max((len(array) for array in (prompt["inputs"] or {}).values()), default=len(prompt["tokens"]))


def most_tokens(prompt: Mapping[str, Any], num_tokens: int, length_factor: float, longest: int | None) -> int:
    """Returns how many tokens may be written for a prompt, a function of its own length alone; one of few sizes.

    That is `length_factor` times the source and a few more, rounded up, but at most `num_tokens`, and no more than fit into a context of
    `longest` tokens together with the prompt.
    """
    wanted = min(bucket(math.ceil(length_factor * source_length(prompt)) + EXTRA), num_tokens)
    return wanted if longest is None else max(1, min(wanted, longest + 1 - len(prompt["tokens"])))


def generate_all(
    generator: Generator,
    params: Any,
    prompts: Sequence[Mapping[str, Any]],
    settings: Sampling | Beam = GREEDY,
    *,
    num_tokens: int,
    length_factor: float = 2.0,
    batch_size: int = 32,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> list[Generation]:
    """Returns one text a prompt, in the order of the prompts.

    Prompts that may have equally many tokens are written together, by length of their source, in batches of `batch_size` rows; the last is
    filled up with copies of its last prompt.

    Args:
      prompts: what `Task.prompt` gives.
      num_tokens, length_factor: see `most_tokens`.
      numbers: of each prompt, for sampling; 0, 1, ... by default.
    """
    numbers = list(range(len(prompts)) if numbers is None else numbers)
    limits = [most_tokens(prompt, num_tokens, length_factor, generator.decoder.max_length) for prompt in prompts]
    found: list[Any] = [None] * len(prompts)
    for limit in sorted(set(limits)):
        members = sorted((i for i, x in enumerate(limits) if x == limit), key=lambda i: source_length(prompts[i]))
        rows = min(batch_size, bucket(len(members)))
        for start in range(0, len(members), rows):
            real = members[start : start + rows]
            batch = [*real, *[real[-1]] * (rows - len(real))]
            results = generator.generate(
                params,
                [prompts[i]["tokens"] for i in batch],
                limit,
                settings,
                seed=seed,
                inputs=stack([prompts[i]["inputs"] for i in batch]),
                numbers=[numbers[i] for i in batch],
            )
            for i, texts in zip(real, results, strict=False):
                found[i] = texts[0]
    return found


def generate_shared(
    generator: Generator, params: Any, prompts: Sequence[Mapping[str, Any]], settings: Sampling | Beam = GREEDY, **sizes: Any
) -> list[Generation]:
    """Returns what `generate_all` does; where the parameters lie whole on every device, each of several processes writes its part of it."""
    index, count = processes.index(), processes.count()
    if count == 1 or not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(params)):
        return generate_all(generator, params, prompts, settings, **sizes)
    own = jax.tree.map(lambda leaf: leaf.addressable_data(0), params)
    sizes["numbers"] = list(range(len(prompts)) if sizes.get("numbers") is None else sizes["numbers"])[index::count]
    texts = generate_all(generator, own, prompts[index::count], settings, **sizes) if prompts[index::count] else []
    plain = [[[int(t) for t in x.tokens], float(x.logprob), x.reason, x.text, float(x.score)] for x in texts]
    found: list[Any] = [None] * len(prompts)
    for process, part in enumerate(processes.gather("texts", plain)):
        found[process::count] = [Generation(*fields) for fields in part]
    return found
