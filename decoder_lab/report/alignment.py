"""Pictures of attention weights: a PNG of one layer, and a self-contained HTML page of all layers that shows each weight under the mouse.

Both draw from arrays: weights_NTS of a layer, row t the token that looks, column s the token looked at.
"""

import html
import json
import math
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from decoder_lab.core.errors import UserError

Layers = Sequence[tuple[str, np.ndarray]]
CELL = 0.24  # inches of a cell of the large panel
MOST_HEADS = 16  # panels of single heads in a PNG
# fonts with Chinese, Japanese and Korean characters that systems carry, tried in this order behind the default one
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei",
    "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Noto Sans CJK JP",
)  # fmt: skip


def check(layers: Layers, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Errors: ValueError where weights do not fit the tokens."""
    for name, weights_NTS in layers:
        if weights_NTS.ndim != 3 or weights_NTS.shape[1:] != (len(rows), len(columns)):
            raise ValueError(f"{name}: weights {weights_NTS.shape} for {len(rows)} rows and {len(columns)} columns")


def pick(layers: Layers, layer: int) -> tuple[str, np.ndarray]:
    """Returns one layer by number, from 0, negative from the end. Errors: UserError where there is none."""
    if not -len(layers) <= layer < len(layers):
        raise UserError(f"--layer: got {layer}, there are {len(layers)}, counted from 0 (-1 is the last).")
    return layers[layer]


def png(layers: Layers, rows: Sequence[str], columns: Sequence[str], path: pathlib.Path | str, layer: int = -1) -> pathlib.Path:
    """Draws one layer: the mean of its heads large, each head small beside it; returns the path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check(layers, rows, columns)
    name, weights_NTS = pick(layers, layer)
    heads = weights_NTS[:MOST_HEADS] if len(weights_NTS) > 1 else weights_NTS[:0]
    width, height = max(2.5, CELL * len(columns)), max(2.0, CELL * len(rows))
    across = 0 if not len(heads) else math.ceil(len(heads) / 4)
    figure = Figure(figsize=(width + 1.6 + across * width / 3, height + 1.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    large = figure.add_gridspec(1, 1 + across, width_ratios=[3] + [1] * across)
    main = figure.add_subplot(large[0])
    family = ["DejaVu Sans", *cjk_fonts()]
    main.imshow(weights_NTS.mean(axis=0), cmap="magma_r", vmin=0, vmax=1, aspect="auto")
    main.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8, fontfamily=family)
    main.set_yticks(range(len(rows)), rows, fontsize=8, fontfamily=family)
    main.xaxis.tick_top()
    several = f"\nmean of {len(weights_NTS)} heads" if len(weights_NTS) > 1 else ""
    main.set_xlabel(f"{name}{several}", fontsize=7)
    for column in range(across):
        below = large[1 + column].subgridspec(4, 1)
        for place, head in enumerate(range(4 * column, min(4 * column + 4, len(heads)))):
            axes = figure.add_subplot(below[place])
            axes.imshow(heads[head], cmap="magma_r", vmin=0, vmax=1, aspect="auto")
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"head {head}", fontsize=7)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `unshown` says so, once
        figure.savefig(path)
    return path


def cjk_fonts() -> list[str]:
    """Returns the fonts with Chinese characters that this system has."""
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in CJK_FONTS if name in known]


def unshown(tokens: Sequence[str]) -> str:
    """Returns the characters of the tokens that no font of this system has: boxes in a PNG, but not in a browser with fonts of its own."""
    from matplotlib import font_manager

    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in ("DejaVu Sans", *cjk_fonts())]
    return "".join(sorted(c for c in set("".join(tokens)) if not any(font.get_char_index(ord(c)) for font in fonts)))


def page(
    layers: Layers, rows: Sequence[str], columns: Sequence[str], path: pathlib.Path | str, title: str = "attention", layer: int = -1
) -> pathlib.Path:
    """Writes all layers and heads into one HTML file that needs nothing else, beginning with `layer`; returns the path."""
    check(layers, rows, columns)
    pick(layers, layer)
    data: dict[str, Any] = {
        "rows": list(rows),
        "columns": list(columns),
        "layers": [{"name": name, "heads": np.round(weights_NTS.astype(np.float64), 4).tolist()} for name, weights_NTS in layers],
        "first": layer % len(layers),
    }
    embedded = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")  # a token must not end the script
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.replace("@TITLE@", html.escape(title)).replace("@DATA@", embedded), encoding="utf-8")
    return path


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
  :root { color-scheme: light dark; --bg: #fff; --fg: #1a1a1a; --dim: #777; --ink: 0, 86, 150; --line: #ddd; }
  @media (prefers-color-scheme: dark) { :root { --bg: #15171a; --fg: #e8e8e8; --dim: #999; --ink: 255, 190, 70; --line: #333; } }
  body { background: var(--bg); color: var(--fg); margin: 1.5rem;
         font: 15px/1.4 system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
  h1 { font-size: 1.1rem; font-weight: 600; } select { font: inherit; margin-right: 1rem; }
  #say { min-height: 1.6em; color: var(--dim); } #say b { color: var(--fg); }
  table { border-collapse: collapse; margin-top: .5rem; }
  td { width: 1.5em; min-width: 1.5em; height: 1.5em; border: 1px solid var(--line); }
  th { font-weight: 400; padding: 0 .4em; white-space: pre; text-align: right; }
  thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: .4em 0; }
  td.at { outline: 2px solid var(--fg); } th.at { font-weight: 700; } .scroll { overflow: auto; }
</style></head><body>
<h1>@TITLE@</h1>
<label>layer <select id="layer"></select></label><label>head <select id="head"></select></label>
<div id="say">a row shows where its token looks; move over a cell for its weight</div>
<div class="scroll"><table id="grid"></table></div>
<script>
const data = @DATA@;
const layer = document.getElementById("layer"), head = document.getElementById("head");
const grid = document.getElementById("grid"), say = document.getElementById("say");
const option = (select, value, text) => select.append(new Option(text, value));
data.layers.forEach((l, i) => option(layer, i, l.name));
layer.value = data.first;
function fillHeads() {
  const n = data.layers[layer.value].heads.length, old = head.value;
  head.replaceChildren();
  if (n > 1) option(head, "mean", "mean of " + n);
  for (let i = 0; i < n; i++) option(head, i, i);
  if (old !== "" && [...head.options].some(o => o.value === old)) head.value = old;
}
function weights() {
  const heads = data.layers[layer.value].heads;
  if (head.value !== "mean") return heads[head.value];
  return heads[0].map((row, t) => row.map((_, s) => heads.reduce((sum, h) => sum + h[t][s], 0) / heads.length));
}
function cell(tag, text, row) { const made = document.createElement(tag); made.textContent = text; row.append(made); return made; }
function draw() {
  const w = weights(), top = document.createElement("thead"), names = document.createElement("tr"), body = document.createElement("tbody");
  cell("th", "", names); const heads = data.columns.map(c => cell("th", c, names)); top.append(names);
  w.forEach((row, t) => {
    const line = document.createElement("tr"), name = cell("th", data.rows[t], line);
    row.forEach((x, s) => {
      const td = cell("td", "", line); td.style.background = "rgba(var(--ink)," + x + ")";
      const mark = on => [td, name, heads[s]].forEach(e => e.classList.toggle("at", on));
      td.onmouseleave = () => mark(false);
      td.onmouseenter = () => {
        mark(true); const bold = text => { const b = document.createElement("b"); b.textContent = text; return b; };
        say.replaceChildren(bold(data.rows[t]), " looks at ", bold(data.columns[s]), " with " + x.toFixed(3));
      };
    });
    body.append(line);
  });
  grid.replaceChildren(top, body);
}
layer.onchange = () => { fillHeads(); draw(); }; head.onchange = draw;
fillHeads(); draw();
</script></body></html>
"""
