"""What a tokenizer puts around texts, such as [CLS] and [SEP], for those who write whole examples. NumPy only."""

from typing import Any

import numpy as np

Ids = np.ndarray  # int32 [T]


def around(tokenizer: Any) -> tuple[Ids, Ids]:
    """Returns what stands before and after a text; nothing where the tokenizer knows of no such."""
    return _ids(getattr(tokenizer, "start_ids", ())), _ids(getattr(tokenizer, "end_ids", ()))


def document(tokenizer: Any, tokens_T: Ids) -> Ids:
    """Returns a text with what stands around it, less an end of text: that is written by whoever joins documents."""
    before, _ = around(tokenizer)
    return np.concatenate([before, np.asarray(tokens_T, np.int32), closing(tokenizer)])


def closing(tokenizer: Any) -> Ids:
    """Returns what stands after a text and before its end of text."""
    _, after = around(tokenizer)
    return after[:-1] if len(after) and after[-1] == tokenizer.eos_id else after


def between(tokenizer: Any) -> Ids:
    """Returns what stands between the two texts of a pair: its own, or its end of text; nothing where it has neither."""
    own, eos = getattr(tokenizer, "middle_ids", ()), tokenizer.eos_id
    return _ids(own or (() if eos is None else (eos,)))


def _ids(values: Any) -> Ids:
    return np.array(values, np.int32)
