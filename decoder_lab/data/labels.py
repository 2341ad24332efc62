"""What may be a label of a raw item."""

import numbers
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError


def text(label: Any, field: str) -> str:
    """Returns a label as a text, without the blanks around it; numbers are written out.

    Errors: UserError for one that is missing, blank, or neither text nor number: it would become a class of its own.
    """
    value = label.item() if isinstance(label, np.generic) else label
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, numbers.Number) and value == value:  # not NaN, which stands for what is missing
        return str(value)
    got = repr(label) if len(repr(label)) < 80 else f"{repr(label)[:80]}..."
    raise UserError(f'task: expected a label in field "{field}", a text or a number, got {got}: mend the item, or leave it out.')
