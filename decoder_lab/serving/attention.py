"""Where a trained model looks: the attention weights of every layer and head for one text, as arrays with readable tokens.

A model with an encoder shows how each target token, when it is predicted, is aligned to the source; a decoder-only model shows its
self-attention, where each token of the text looks.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.decoding import attention_weights
from decoder_lab.decoding.batches import most_tokens, stack
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import GREEDY
from decoder_lab.decoding.text import REPLACEMENT


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


def align(
    model: Any,
    params: Any,
    task: Any,
    tokenizer: Any,
    source_tokenizer: Any,
    prompt: str,
    target: str | None = None,
    num_tokens: int = 200,
) -> Alignment:
    """Returns where the model looks.

    Args:
      prompt: the source, or of a language model the (beginning of the) text.
      target: what it is aligned with, or how the text goes on; None lets a model of pairs write it, greedily, in at most `num_tokens`.
    Errors: UserError for a model that has no attention or writes no text.
    """
    generator = Generator.for_task(model, tokenizer, task)
    pairs = hasattr(task, "prompt")
    if pairs:
        made = task.prompt({"source": prompt})
    else:
        made = {"tokens": tokenizer.encode(prompt).tolist(), "inputs": None}
    inputs = stack([made["inputs"]])
    if target is not None:
        ids = tokenizer.encode(target).tolist()
    elif pairs:
        most = most_tokens(made, num_tokens, 2.0, generator.decoder.max_length)
        ids = generator.generate(params, [made["tokens"]], most, GREEDY, inputs=inputs)[0][0].tokens
    else:
        ids = []
    tokens = [*made["tokens"], *ids]
    if not tokens:
        raise UserError("--prompt: there is no text to look at: give one.")
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
    tokens_1T = jnp.asarray([tokens], jnp.int32)
    given: dict[str, Any] = {} if memory is None else {"memory": memory}
    if num_prefix:
        given["prefix_BT"] = jnp.arange(len(tokens))[None] < num_prefix
    _, sown = jax.jit(lambda p, t: model.apply({"params": p}, t, **given, mutable=["attention"]))(params, tokens_1T)
    found = attention_weights.by_layer(sown.get("attention", {}), looks_at_source=memory is not None)
    if not found:
        raise UserError(
            "this model has no attention weights to show: it looks at nothing" + (" in its source." if memory is not None else ".")
        )
    return [(name, np.asarray(weights_BNTS[0], np.float32)) for name, weights_BNTS in found]


def piece(tokenizer: Any, token: int) -> str:
    """Returns one token in readable form: blanks as signs, what is no text by itself by its number."""
    if token == tokenizer.eos_id:
        return "⟨eos⟩"
    text = tokenizer.decode([token]) if token < tokenizer.vocab_size else ""
    if not text or REPLACEMENT in text:
        return f"⟨{token}⟩"
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
