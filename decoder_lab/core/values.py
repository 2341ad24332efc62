"""Values of settings: casting without loss, parsing the text of the command line by a field's type, checking one by its field."""

import ast
import math
from typing import Any

from decoder_lab.core import durations, fields
from decoder_lab.core.errors import UserError, nearest
from decoder_lab.core.signatures import Field


def cast(field: Field, value: Any) -> tuple[Any, bool]:
    """Returns (value in the field's type, whether that was possible without loss)."""
    if value is None:
        return None, field.optional or field.type is None
    if field.type is None:
        return value, True
    if field.type is tuple and isinstance(value, list | tuple):
        items = [cast(Field(field.item, duration=field.duration), v) for v in value]
        return tuple(v for v, _ in items), all(ok for _, ok in items)
    if field.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), True
    if field.type is int and isinstance(value, float) and value.is_integer():
        return int(value), True
    if field.type is str and field.duration and isinstance(value, int) and not isinstance(value, bool):
        return str(value), True
    return value, isinstance(value, field.type) and not (field.type is int and isinstance(value, bool))


def parse(field: Field, text: str) -> Any:
    """Parses a command-line value by the field's type. Errors: ValueError."""
    if field.type is str and not (field.optional and text == "None"):
        return text
    if field.type is bool and text.lower() in ("true", "false", "1", "0"):
        return text.lower() in ("true", "1")
    value = literal(text)
    if field.type is tuple and not isinstance(value, tuple | list):
        value = (text if field.item is str and not isinstance(value, str) else value,)
    value, ok = cast(field, value)
    if not ok or (field.type is bool):
        raise ValueError(text)
    return value


def literal(text: str) -> Any:
    """Returns the Python literal that a text is, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def type_name(field: Field) -> str:
    """Returns a field's type as an error message names it."""
    if field.duration:
        form = 'a duration such as "200 steps" or "5%"' if field.type is str else 'durations such as ("50%", "75%")'
        return f"{form} or None" if field.optional else form
    name = field.type.__name__ if field.type else "any value"
    return f"{name} or None" if field.optional and field.type else name


def problems(path: str, field: Field, value: Any) -> list[str]:
    """Returns what is wrong with one setting of the right type: its choice, its range, its form."""
    found = []
    for item in value if isinstance(value, tuple) else (value,):
        if field.choices and value is not None and item not in field.choices:
            found.append(f"{path}: got {item!r}, expected one of {', '.join(map(repr, field.choices))}.{nearest(item, field.choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        found.append(f"{path}: got {value!r}, expected a finite number.")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if path in fields.POSITIVE and value <= 0:
            found.append(f"{path}: got {value!r}, expected more than 0.")
        if path in fields.NOT_NEGATIVE and value < 0:
            found.append(f"{path}: got {value!r}, expected 0 or more.")
    if field.duration:
        for text in [x for x in (value if isinstance(value, tuple) else (value,)) if isinstance(x, str)]:
            try:
                durations.parse(text)
            except UserError as error:
                found.append(f"{path}: {error}")
    return found
