"""Where a trained model looks: the attention weights of every layer and head for one text, as arrays with readable tokens.

A model with an encoder shows how each target token, when it is predicted, is aligned to the source; a decoder-only model shows its
self-attention, where each token of the text looks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import marks
from decoder_lab.decoding import attention_weights
from decoder_lab.decoding.batches import most_tokens, stack
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY
from decoder_lab.decoding.text import piece


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Attention weights of one text.

    Attributes:
      layers: name of each layer and its float32 weights_NTS, rows summing to 1, first layer first.
      rows: the T tokens that look; of a model with an encoder those that are predicted.
      columns: the S tokens that are looked at.
      text: the target, given or written by the model; of a decoder-only model the whole text.
    """

    layers: list[tuple[str, np.ndarray]]
    rows: list[str]
    columns: list[str]
    text: str


def check(model: Any, params: Any, task: Any, tokenizer: Any, prompt: str, target: str | None = None) -> list[tuple[str, Any]]:
    """Returns the layers, [(name, shape of weights_NTS)], that `align` would show; the shapes of parameters suffice.

    Errors: UserError for a model that has no attention or writes no text, for no text at all, and for one that is too long.
    """
    generator, made, ids = _asked(model, task, tokenizer, prompt, target)
    memory, inputs = None, stack([made["inputs"]])
    if inputs is not None:
        memory = jax.eval_shape(generator.decoder.encode, params, inputs)
    tokens_1T = jax.ShapeDtypeStruct((1, len(made["tokens"]) + len(ids or ())), jnp.int32)
    return _named(jax.eval_shape(_weights_fn(model, 0), params, tokens_1T, memory))


def _asked(model: Any, task: Any, tokenizer: Any, prompt: str, target: str | None) -> tuple[Generator, dict, list[int] | None]:
    """Returns a generator, what `task.prompt` makes of the prompt, and the target's ids, None where it is to be written."""
    if not hasattr(model, "init_cache"):
        raise UserError(
            "--mode=attention draws where a model looks while it writes, and this one writes no text. Of an encoder alone the evaluator "
            '"attention_maps" shows it: --mode=evaluate --evaluator=attention_maps, and then decoder_lab.report.'
        )
    generator = Generator.for_task(model, tokenizer, task)
    if hasattr(task, "prompt"):
        made = task.prompt({"source": prompt})
    elif hasattr(model, "encode"):
        raise UserError("this model reads a source, and its task does not say what a source and its target are: there is none to look at.")
    else:
        start = marks.around(tokenizer)[0].tolist() if prompt or target else []  # as every text began in training
        made = {"tokens": [*start, *tokenizer.encode(prompt).tolist()], "inputs": None}
    ids = None if target is None else tokenizer.encode(target).tolist()
    if not made["tokens"] and not ids:
        raise UserError("--prompt: there is no text to look at: give one.")
    size, longest = len(made["tokens"]) + len(ids or ()), generator.decoder.max_length
    if longest is not None and size > longest:
        which = "--prompt" if target is None else "--target" if made["inputs"] is not None else "--prompt and --target"
        raise UserError(f"{which}: {size} tokens, expected at most the {longest} of this model's context.")
    return generator, made, ids


def align(
    model: Any,
    params: Any,
    task: Any,
    tokenizer: Any,
    prompt: str,
    target: str | None,
    source_tokenizer: Any,
    num_tokens: int = 200,
) -> Alignment:
    """Returns where the model looks.

    Args:
      prompt: the source, or of a language model the (beginning of the) text.
      target: what it is aligned with, or how the text goes on; None lets a model of pairs write it, greedily, in at most `num_tokens`.
    Errors: as of `check`.
    """
    generator, made, ids = _asked(model, task, tokenizer, prompt, target)
    inputs = stack([made["inputs"]])
    longest = generator.decoder.max_length  # what is written is read once more
    if ids is None and hasattr(task, "prompt") and (longest is None or len(made["tokens"]) < longest):
        most = most_tokens(made, num_tokens, 2.0, None if longest is None else longest - 1)
        ids = generator.generate(params, [made["tokens"]], most, GREEDY, inputs=inputs)[0][0].tokens
    ids = ids or []
    tokens = [*made["tokens"], *ids]
    if inputs is None:
        labels = [piece(tokenizer, i) for i in tokens]
        layers = _weights(model, params, tokens, None, len(made["tokens"]) - 1 if generator.decoder.bidirectional_prefix else 0)
        return Alignment(layers, labels, labels, generator.decode(tokens))
    layers = _weights(model, params, tokens, generator.decoder.encode(params, {k: jnp.asarray(v) for k, v in inputs.items()}), 0)
    begin = len(made["tokens"]) - 1  # the prompt's last token predicts the first of the target
    rows = [piece(tokenizer, i) for i in [*tokens[1:], tokenizer.eos_id]][begin:]
    columns = [piece(source_tokenizer, int(i)) for i in next(iter(inputs.values()))[0]]
    return Alignment([(name, weights_NTS[:, begin:]) for name, weights_NTS in layers], rows, columns, generator.decode(ids))


def _weights(model: Any, params: Any, tokens: list[int], memory: Any, num_prefix: int) -> list[tuple[str, np.ndarray]]:
    """Returns [(layer, weights_NTS)] of one uncached call, attention to the memory where there is one."""
    found = jax.jit(_weights_fn(model, num_prefix))(params, jnp.asarray([tokens], jnp.int32), memory)
    return [(name, np.asarray(weights_NTS, np.float32)) for name, weights_NTS in _named(found)]


def _weights_fn(model: Any, num_prefix: int) -> Callable:
    """Returns (params, tokens_1T, memory) -> [{layer: weights_NTS}], first layer first. Errors: UserError where there are none."""

    def weights(params, tokens_1T, memory):
        given: dict[str, Any] = {} if memory is None else {"memory": memory}
        if num_prefix:
            given["prefix_BT"] = jnp.arange(tokens_1T.shape[1])[None] < num_prefix
        _, sown = model.apply({"params": params}, tokens_1T, **given, mutable=["attention"])
        found = attention_weights.by_layer(sown.get("attention", {}), looks_at_source=memory is not None)
        if not found:
            where = " in its source." if memory is not None else "."
            raise UserError("this model has no attention weights to show: it looks at nothing" + where)
        return [{name: weights_BNTS[0]} for name, weights_BNTS in found]

    return weights


def _named(found: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(name, weights_NTS) for layer in found for name, weights_NTS in layer.items()]
