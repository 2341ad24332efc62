"""Which tag may follow which: BIO, IOB1, BIOES (IOBES) and BMES, read from the tags' names. NumPy only.

A tag is "O", or a prefix, "-" and a type ("B-PER"), or a bare prefix where there is only one type (word segmentation's "B M E S").
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Transitions(NamedTuple):
    """Scores of going from tag to tag (row: from, column: to), of beginning and of ending with a tag; float32, or bool where allowed."""

    between_CC: Any
    start_C: Any
    end_C: Any


# scheme -> (prefixes, pairs (before, after) that are allowed inside one type, prefixes that may begin, prefixes that may end)
_RULES = {
    "BIO": ("BI", ("BI", "II"), "B", "BI"),
    "IOB1": ("BI", ("BI", "II", "IB", "BB"), "I", "BI"),  # B only parts a span from one of its own type just before it
    "BIOES": ("BIES", ("BI", "BE", "II", "IE"), "BS", "ES"),
    "BMES": ("BMES", ("BM", "BE", "MM", "ME"), "BS", "ES"),
}
SCHEMES = tuple(_RULES)


def split(name: str) -> tuple[str, str]:
    """Tag -> (prefix, type): "B-PER" is ("B", "PER"), "O" is ("O", ""), a bare "B" is ("B", "")."""
    prefix, _, kind = name.partition("-")
    return prefix, kind


def belongs(name: str, scheme: str) -> bool:
    """Whether the scheme has such a tag."""
    prefix, kind = split(name)
    return name == "O" or (len(prefix) == 1 and prefix in _RULES[scheme][0] and bool(kind) == ("-" in name))


@functools.lru_cache(maxsize=1 << 16)
def follows(before: str | None, after: str | None, scheme: str) -> bool:
    """Whether a tag may stand right after another; None before is the beginning of a sentence, None after its end."""
    if not all(name is None or belongs(name, scheme) for name in (before, after)):
        return False
    _, inside, opening, closing = _RULES[scheme]
    (prefix, kind), (next_prefix, next_kind) = split(before or "O"), split(after or "O")
    if prefix != "O" and next_prefix != "O" and kind == next_kind and prefix + next_prefix in inside:
        return True
    return prefix in "O" + closing and next_prefix in "O" + opening


def allowed(names: Sequence[str], scheme: str) -> Transitions:
    """Returns boolean NumPy Transitions over these tags. Errors: ValueError for a tag that the scheme does not have."""
    if strange := [name for name in names if not belongs(name, scheme)]:
        known = ", ".join(f"{p}-type" for p in _RULES[scheme][0])
        raise ValueError(f"expected tags of {scheme} (O, {known}), got {', '.join(strange[:5])}")
    between = np.array([[follows(a, b, scheme) for b in names] for a in names], bool)
    ends = [np.array(x, bool) for x in ([follows(None, b, scheme) for b in names], [follows(a, None, scheme) for a in names])]
    return Transitions(between, *ends)


def first_violation(tags: Sequence[str], scheme: str) -> int | None:
    """Returns where a sequence of tags first breaks the scheme (its length: it must not end there), None where it is valid."""
    pairs = zip([None, *tags], [*tags, None], strict=True)
    return next((i for i, (before, after) in enumerate(pairs) if not follows(before, after, scheme)), None)


def complete(names: Sequence[str], scheme: str) -> list[str]:
    """Returns these tags and all others that the scheme has for their types: O first where it occurs, then type by type."""
    kinds = sorted({split(name)[1] for name in names if name != "O"})
    rest = [f"{prefix}-{kind}" if kind else prefix for kind in kinds for prefix in _RULES[scheme][0]]
    return (["O"] if "O" in names else []) + rest
