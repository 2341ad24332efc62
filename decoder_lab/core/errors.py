"""Errors that a user can act on. `main` prints them without a traceback and exits with 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something in a config, a file, a flag or a checkpoint is not as it must be; the text says what, and what to do."""

    exit_code = 2  # of a program that ends with it


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ' Did you mean "x"?' for the nearest of the `known` names, or '' when none is near."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f' Did you mean "{matches[0]}"?' if matches else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Returns the one-line message for a name that is not among the `known` ones, nearest match first."""
    known = sorted(str(k) for k in known)
    return f'{what}: "{name}" is not known.{nearest(name, known)} Known: {", ".join(known) or "none"}.'
