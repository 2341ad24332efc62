"""Values of settings: casting without loss, and parsing the text of the command line by a field's type."""

import ast
from typing import Any

from decoder_lab.core import fields
from decoder_lab.core.lookup import Field


def cast(field: Field, value: Any) -> tuple[Any, bool]:
    """Returns (value in the field's type, whether that was possible without loss)."""
    if value is None:
        return None, field.optional or field.type is None
    if field.type is None:
        return value, True
    if field.type is tuple and isinstance(value, list | tuple):
        items = [cast(Field(field.item), v) for v in value]
        return tuple(v for v, _ in items), all(ok for _, ok in items)
    if field.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), True
    if field.type is int and isinstance(value, float) and value.is_integer():
        return int(value), True
    if field.type is str and field.doc.startswith(fields.DURATION) and isinstance(value, int):
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
        if field.item in (str, None) and isinstance(value, str):
            value = tuple(filter(None, text.split(",")))
        else:
            value = (value,)
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
    if field.doc.startswith(fields.DURATION):
        return 'a duration such as "200 steps" or "5%"'
    name = field.type.__name__ if field.type else "any value"
    return f"{name} or None" if field.optional and field.type else name
