"""HTML that is safe by construction: text is escaped unless it is HTML already, so a token such as "</script><b>" stays text."""

import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

VOID = ("input", "meta", "br")


class Html(str):
    """A piece of HTML; every other string is text."""


def text(value: Any) -> Html:
    """Returns a value as HTML that shows it; None shows nothing."""
    return value if isinstance(value, Html) else Html("" if value is None else html.escape(str(value)))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """Returns an element. Attributes: "class_" is class, "_" becomes "-"; True stands without a value, None and False not at all."""
    written = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {key}")
        elif value is not None and value is not False:
            written.append(f' {key}="{html.escape(str(value))}"')
    head = f"<{name}{''.join(written)}>"
    return Html(head if name in VOID else f"{head}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """Returns several pieces one after another; sequences are joined too."""
    return Html("".join(join(child) if isinstance(child, list | tuple) else text(child) for child in children))


def script_data(value: Any) -> Html:
    """Returns JSON that may stand inside a script element: no character of it can end the element."""
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Html(dumped.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], numbers_from: int = 1, **attributes: Any) -> Html:
    """Returns a table that scrolls inside itself; from column `numbers_from` on cells are set as numbers."""
    top = tag("tr", [tag("th", cell, scope="col", class_="n" if i >= numbers_from else None) for i, cell in enumerate(head)])
    body = []
    for row in rows:
        cells = [tag("th", row[0], scope="row", title=row[0] if isinstance(row[0], str) and not isinstance(row[0], Html) else None)]
        cells += [tag("td", cell, class_="n" if i >= numbers_from else None) for i, cell in enumerate(row[1:], 1)]
        body.append(tag("tr", cells))
    return tag("div", tag("table", tag("thead", top), tag("tbody", body), **attributes), class_="scroll", tabindex="0")


def fold(title: Any, *content: Any, open_: bool = False) -> Html:
    """Returns something that opens under its title."""
    return tag("details", tag("summary", title), content, open=open_)


def stepper(states: Sequence[tuple[int, Any]], label: str) -> Html:
    """Returns the same thing at several steps: a slider shows one of them, the last at first; without a script, or on paper, all stand."""
    if len(states) == 1:
        return tag("div", tag("p", f"step {states[0][0]:,}", class_="dim"), states[0][1])
    shown = [tag("div", tag("p", f"step {step:,}", class_="dim"), content, data_step=step) for step, content in states]
    return tag("div", shown, class_="stepper", data_label=label)


def number(value: Any, digits: int = 4) -> str:
    """Returns a number as a table shows it: enough digits, thousands grouped, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return {True: "∞", False: "−∞"}[value > 0] if math.isinf(value) else "NaN"
    if value == 0:
        return "0"
    if 0.1 <= abs(value) < 1:
        return f"{value:.{digits}f}"
    if abs(value) >= 1:
        return f"{value:,.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.4g}"
    return f"{value:.{digits}g}"
