"""What a detail has to hold so that it can be shown, by its kind (`core/writer/jsonl.py` lists them).

Another version, another program or a full disk may have written something else; that is said, and the rest of the run is shown.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from decoder_lab.core.writer.jsonl import NOT_FINITE


def problem(detail: Any) -> str | None:
    """Returns what keeps a detail from being shown, None where nothing does; a kind that no part of a report knows is left alone."""
    try:
        check = CHECKS.get(detail["kind"])
        if check is not None:
            check(detail)
    except KeyError as error:
        return f"there is no {error}"
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def number(value: Any) -> float | None:
    """Returns a number of a detail; None for one that is missing or, which stands there as text, not finite."""
    return None if value is None or isinstance(value, str) or not math.isfinite(value) else float(value)


def _want(right: bool, what: str) -> None:
    if not right:
        raise ValueError(f"expected {what}")


def _names(found: Any, what: str) -> int:
    _want(isinstance(found, list) and all(isinstance(name, str) for name in found), f"{what} to be a list of texts")
    return len(found)


def _numbers(found: Any, count: int, what: str, finite: bool = False) -> None:
    def right(x: Any) -> bool:
        if isinstance(x, int | float) and not isinstance(x, bool):
            return not finite or math.isfinite(x)
        return not finite and (x is None or (isinstance(x, str) and x in NOT_FINITE))

    fits = isinstance(found, list) and len(found) == count and all(map(right, found))
    _want(fits, f"{what} to be {count} {'finite ' if finite else ''}numbers")


def _matrix(found: Any, rows: int, columns: int, what: str, finite: bool = False) -> None:
    _want(isinstance(found, list) and len(found) == rows, f"{what} to have {rows} rows")
    for row in found:
        _numbers(row, columns, f"a row of {what}", finite)


def _confusion(detail: Mapping) -> None:
    count = _names(detail["labels"], "labels")
    _matrix(detail["matrix"], count, count, "the matrix", finite=True)


def _transitions(detail: Mapping) -> None:
    count = _names(detail["labels"], "labels")
    _matrix(detail["between"], count, count, "between")
    for part in ("start", "end"):
        _numbers(detail[part], count, part)


def _token_loss(detail: Mapping) -> None:
    _want(isinstance(detail["texts"], list), "texts to be a list")
    for text in detail["texts"]:
        _numbers(text["losses"], _names(text["tokens"], "tokens"), "losses")


def _norms(detail: Mapping) -> None:
    count = _names(detail["groups"], "groups")
    for part in ("parameters", "gradients", "updates"):
        _numbers(detail[part], count, part)


def _ranks(detail: Mapping) -> None:
    count = _names(detail["groups"], "groups")
    for part in ("ranks", "most"):
        _numbers(detail[part], count, part, finite=True)


def _histograms(detail: Mapping) -> None:
    _want(isinstance(detail["groups"], dict), "groups to be an object")
    for name, bins in detail["groups"].items():
        _want(isinstance(bins["counts"], list) and bool(bins["counts"]), f"counts of {name} to be a list")
        _numbers(bins["counts"], len(bins["counts"]), f"counts of {name}", finite=True)
        _numbers(bins["edges"], len(bins["counts"]) + 1, f"edges of {name}", finite=True)


def _attention(detail: Mapping) -> None:
    rows, columns = _names(detail["rows"], "rows"), _names(detail["columns"], "columns")
    _want(isinstance(detail["layers"], list) and bool(detail["layers"]), "layers to be a list")
    for layer in detail["layers"]:
        _want(isinstance(layer["name"], str) and isinstance(layer["heads"], list) and bool(layer["heads"]), "a layer's name and heads")
        for weights in layer["heads"]:
            _matrix(weights, rows, columns, layer["name"])


CHECKS: dict[str, Callable[[Mapping], None]] = {
    "confusion": _confusion,
    "transitions": _transitions,
    "token_loss": _token_loss,
    "norms": _norms,
    "ranks": _ranks,
    "histograms": _histograms,
    "attention": _attention,
}
