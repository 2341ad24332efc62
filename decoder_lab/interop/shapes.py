"""The shapes of a model's parameters, with its layers one by one, worked out without any array."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core import lookup, tree
from decoder_lab.interop.family_base import Sizes

ONE = np.ones((1, 1), np.int32)
# our model -> what its __call__ is given
CALLS = {
    "decoder_only": dict(tokens_BT=ONE),
    "encoder_decoder": dict(tokens_BT=ONE, source_BS=ONE),
    "masked_lm": dict(tokens_BS=ONE),
    "classifier": dict(tokens_BS=ONE),
    "tagger": dict(tokens_BS=ONE, starts_BW=ONE, words_BW=ONE),
    "span_extractor": dict(tokens_BS=ONE, segments_BS=ONE, types_BS=ONE, question_BQ=ONE),
    "dual_encoder": dict(source_BS=ONE, tokens_BT=ONE),
}


def unrolled(plugin: Any) -> dict:
    """Returns the plug-in `dict(name, kw)` with scan_layers False at every depth where it is said."""
    name, kw = lookup.part(plugin)
    inner = {key: unrolled(value) if isinstance(value, Mapping) and "name" in value else value for key, value in kw.items()}
    return dict(name=name, kw=inner | ({"scan_layers": False} if "scan_layers" in inner else {}))


def model(plugin: Any, sizes: Sizes, dtype: Any = jnp.float32) -> Any:
    """Returns the Linen module of a plug-in for these sizes."""
    size = dict(vocab_size=sizes.vocab_size, source_vocab_size=sizes.vocab_size, char_vocab_size=1, max_length=sizes.num_positions)
    return lookup.make("model", plugin, **size, num_labels=sizes.num_labels, num_classes=sizes.num_labels, dtype=dtype)


def of(plugin: Any, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Returns {path: shape} of the model's parameters."""
    made = model(unrolled(plugin), sizes)
    shapes = jax.eval_shape(lambda: made.init(jax.random.key(0), **CALLS[lookup.part(plugin)[0]])["params"])
    return {path: tuple(leaf.shape) for path, leaf in tree.flatten(shapes).items()}
