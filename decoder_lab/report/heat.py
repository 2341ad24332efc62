"""Tables whose cells are coloured by their value: confusions, transitions, attention, ranks. They need no script, and can be read aloud."""

import math
from collections.abc import Callable, Sequence

from decoder_lab.report.markup import Html, tag

STRONG = 0.7  # from which on the text in a cell is of the other brightness
MOST_SHOWN = 60  # rows or columns of a table


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    shade: Callable[[float, int], float],
    corner: str = "",
    show: Callable[[float], str] = "{:.2f}".format,
    **attributes: str,
) -> Html:
    """Returns a table.

    Args:
      rows, columns: names.
      values: a value for each row and column; None leaves the cell empty.
      shade: (value, row) -> strength of the colour, -1 to 1; below 0 in the other colour.
      corner: what rows and columns are.
      show: how a value is written into its cell.
    """
    columns, cut = columns[:MOST_SHOWN], max(len(rows), len(columns)) - MOST_SHOWN
    head = tag("tr", tag("td", corner, class_="corner"), [tag("th", tag("span", name), scope="col", title=name) for name in columns])
    body = []
    for i, (name, row) in enumerate(zip(rows[:MOST_SHOWN], values, strict=False)):
        cells = [tag("td", class_="none") if x is None else _cell(x, shade(x, i), show(x)) for x in row[:MOST_SHOWN]]
        body.append(tag("tr", tag("th", name, scope="row", title=name), cells))
    more = tag("p", f"the first {MOST_SHOWN}; {cut} more are not shown", class_="dim") if cut > 0 else ""
    made = tag("table", tag("thead", head), tag("tbody", body), class_="heat", **attributes)
    return tag("div", tag("div", made, class_="scroll late", tabindex="0"), more)


def _cell(value: float, strength: float, shown: str) -> Html:
    strength = max(-1.0, min(1.0, strength)) if math.isfinite(strength) else 0.0
    kind = " ".join(word for word, on in (("cold", strength < 0), ("strong", abs(strength) > STRONG)) if on) or None
    return tag("td", shown, style=f"--v:{abs(strength):.3f}", class_=kind, title=f"{value:g}")
