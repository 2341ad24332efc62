// Draws the report's charts from the data in the page, and makes its sliders, lists and switches. It loads nothing.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";

  // --- small things ---
  const make = (name, props = {}, ...children) => {
    const el = document.createElement(name);
    for (const [k, v] of Object.entries(props)) {
      if (k === "style") el.style.cssText = v; else if (k in el) el[k] = v; else el.setAttribute(k, v);
    }
    el.append(...children);
    return el;
  };
  const draw = (name, attributes, parent) => {
    const el = document.createElementNS(SVG, name);
    for (const k in attributes) el.setAttribute(k, attributes[k]);
    parent.append(el);
    return el;
  };
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const decode = ([steps, values], exact) => ({
    x: new Uint32Array(bytes(steps).buffer), y: new (exact ? Float64Array : Float32Array)(bytes(values).buffer),
  });
  const say = v => {
    if (!Number.isFinite(v)) return Number.isNaN(v) ? "NaN" : v > 0 ? "∞" : "−∞";
    const a = Math.abs(v);
    if (a !== 0 && (a < 1e-3 || a >= 1e6)) return v.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
    return a >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(5));
  };
  const kept = {
    get: k => { try { return JSON.parse(sessionStorage.getItem(location.pathname + k)); } catch { return null; } },
    set: (k, v) => { try { sessionStorage.setItem(location.pathname + k, JSON.stringify(v)); } catch { /* a page without storage forgets */ } },
  };
  const several = data.groups.some(g => g.n > 1);
  const state = Object.assign({ smooth: 0, logX: false, logY: false, whole: false, bands: several, hidden: [], theme: "" }, kept.get("state"));

  // --- numbers ---
  function smoothed({ x, y }, weight) { // exponential, freed of its start from zero
    const out = new Float64Array(y.length);
    let sum = 0, norm = 0;
    for (let i = 0; i < y.length; i++) {
      if (Number.isFinite(y[i])) { sum = weight * sum + (1 - weight) * y[i]; norm = weight * norm + (1 - weight); }
      out[i] = norm ? sum / norm : NaN;
    }
    return { x, y: out };
  }
  function at({ x, y }, step) { // linear between points, nothing outside
    let low = 0, high = x.length - 1;
    if (high < 0 || step < x[0] || step > x[high]) return NaN;
    while (high - low > 1) { const mid = (low + high) >> 1; if (x[mid] <= step) low = mid; else high = mid; }
    if (x[low] === step || low === high) return y[low];
    if (x[high] === step) return y[high];
    return y[low] + (y[high] - y[low]) * (step - x[low]) / (x[high] - x[low]);
  }
  function nearest({ x }, step) {
    let low = 0, high = x.length - 1;
    while (high - low > 1) { const mid = (low + high) >> 1; if (x[mid] <= step) low = mid; else high = mid; }
    return high >= 0 && Math.abs(x[high] - step) < Math.abs(x[low] - step) ? high : low;
  }
  function band(lines, most = 300) { // mean, lowest and highest of runs that differ in a seed, of those that have a value
    const all = [...new Set(lines.flatMap(l => Array.from(l.x)))].sort((a, b) => a - b);
    const every = Math.max(1, Math.ceil(all.length / most));
    const x = [], y = [], low = [], high = [];
    for (let i = 0; i < all.length; i += every) {
      const values = lines.map(l => at(l, all[i])).filter(Number.isFinite);
      if (!values.length) continue;
      x.push(all[i]); y.push(values.reduce((a, b) => a + b, 0) / values.length);
      low.push(Math.min(...values)); high.push(Math.max(...values));
    }
    return { x, y, low, high };
  }
  function ticks(low, high, count) {
    if (!(high > low)) return [low];
    const rough = (high - low) / count, unit = 10 ** Math.floor(Math.log10(rough));
    const size = [1, 2, 5, 10].map(f => f * unit).find(s => s >= rough);
    const out = [];
    for (let i = Math.ceil(low / size); i * size <= high && out.length < 40; i++) out.push(+(i * size).toPrecision(12));
    return out;
  }
  function logTicks(low, high) {
    const out = [], few = Math.log10(high / low) < 2.5;
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      for (const f of few ? [1, 2, 5] : [1]) { const v = f * 10 ** e; if (v >= low * 0.999 && v <= high * 1.001) out.push(v); }
    }
    return out.length > 1 ? out : ticks(low, high, 4);
  }

  // --- a chart ---
  class Chart {
    constructor(figure) {
      this.plot = figure.querySelector(".plot");
      this.read = figure.querySelector(".read");
      this.spec = data.charts[+figure.dataset.chart];
      this.dirty = true; this.near = false; this.cursor = null;
      this.plot.addEventListener("pointermove", e => this.point(e));
      this.plot.addEventListener("pointerdown", e => this.point(e));
      this.plot.addEventListener("pointerleave", () => this.unpoint());
      this.plot.addEventListener("blur", () => this.unpoint());
      this.plot.addEventListener("keydown", e => this.key(e));
    }
    lines() {
      this.decoded ??= this.spec.lines.map(l => ({ ...l, raw: decode(l.d, true), mean: l.m ? decode(l.m, false) : null }));
      return this.spec.byRun ? this.decoded.filter(l => !state.hidden.includes(data.groups[l.g].l)) : this.decoded;
    }
    shown() { // what is drawn: lines, or bands of groups
      const lines = this.lines(), out = [], w = state.smooth;
      const smooth = l => smoothed(l.mean ?? l.raw, w);
      const single = (l, thin) => out.push({ label: l.l, c: l.c, raw: l.raw, line: w ? smooth(l) : l.raw, faint: w > 0, thin });
      if (!this.spec.byRun || !state.bands) {
        for (const l of lines) single(l, false);
        return out;
      }
      for (const g of new Set(lines.map(l => l.g))) { // those that diverged or stopped on the way stand beside their band
        const all = lines.filter(l => l.g === g), members = all.filter(l => !l.a);
        for (const l of all.filter(l => l.a)) single(l, all.length > 1);
        if (members.length === 1) single(members[0], false);
        if (members.length < 2) continue;
        const made = band(members.map(l => (w ? smooth(l) : l.mean ?? l.raw)));
        const label = data.groups[g].l + (members.length < all.length ? ` (${members.length} of ${all.length} seeds)` : "");
        out.push({ label, c: members[0].c, raw: made, line: made, band: made });
      }
      return out;
    }
    render() {
      this.dirty = false;
      const width = Math.max(260, this.plot.clientWidth), height = Math.round(Math.min(360, Math.max(190, width * 0.42)));
      const L = 58, R = 20, T = 10, B = 26, shown = this.shown();
      const ys = [];
      let first = Infinity, last = -Infinity;
      for (const s of shown) {
        for (const source of s.faint ? [s.line] : [s.raw]) for (const v of source.y) if (Number.isFinite(v) && (!state.logY || v > 0)) ys.push(v);
        if (s.band) for (const v of [...s.band.low, ...s.band.high]) if (!state.logY || v > 0) ys.push(v);
        if (s.raw.x.length) { first = Math.min(first, s.raw.x[0]); last = Math.max(last, s.raw.x[s.raw.x.length - 1]); }
      }
      ys.sort((a, b) => a - b);
      let low = ys[0] ?? 0, high = ys[ys.length - 1] ?? 1;
      const most = ys[Math.ceil(0.98 * (ys.length - 1))];
      if (!state.whole && !state.logY && ys.length >= 8 && most > low && high - low > 2 * (most - low)) high = most;
      if (!state.logY || low <= 0) {
        const margin = 0.06 * (high - low) || Math.abs(high) * 0.05 || 0.5;
        low -= margin; high += margin;
      } else if (low === high) { low /= 1.1; high *= 1.1; }
      if (first > last) { first = 0; last = 1; }
      const logX = state.logX, logY = state.logY && low > 0;
      if (logX) first = Math.max(1, first);
      const fx = logX ? v => Math.log10(Math.max(v, 1)) : v => v, fy = logY ? v => Math.log10(v) : v => v;
      const spanX = fx(last) - fx(first) || 1, spanY = fy(high) - fy(low) || 1;
      const X = v => L + (fx(v) - fx(first)) / spanX * (width - L - R), Y = v => T + (fy(high) - fy(v)) / spanY * (height - T - B);
      const inside = v => (logY && v <= 0 ? height - B + 3 : Math.max(T - 3, Math.min(height - B + 3, Y(v))));
      Object.assign(this, { X, Y, inside, width, height, L, R, T, B, first, last, drawn: shown });
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`); svg.setAttribute("aria-hidden", "true");
      for (const t of logY ? logTicks(low, high) : ticks(low, high, 5)) {
        draw("line", { x1: L, x2: width - R, y1: Y(t), y2: Y(t), class: "grid" }, svg);
        draw("text", { x: L - 7, y: Y(t) + 4, "text-anchor": "end" }, svg).textContent = say(t);
      }
      for (const t of logX ? logTicks(Math.max(first, 1), last) : ticks(first, last, width / 110)) {
        if (Number.isInteger(t)) draw("text", { x: X(t), y: height - 8, "text-anchor": "middle" }, svg).textContent = t.toLocaleString("en");
      }
      for (const s of shown) {
        if (s.band) {
          const there = s.band.x.map((x, i) => `${X(x).toFixed(1)},${inside(s.band.high[i]).toFixed(1)}`);
          const back = s.band.x.map((x, i) => `${X(x).toFixed(1)},${inside(s.band.low[i]).toFixed(1)}`).reverse();
          if (there.length) draw("path", { d: "M" + [...there, ...back].join("L") + "Z", class: "band", style: `fill:${s.c}` }, svg);
        }
        if (s.faint) this.path(s.raw, s.c, "l raw", svg);
        this.path(s.line, s.c, s.thin ? "l thin" : "l", svg);
        const bad = Array.from(s.raw.x).filter((_, i) => !Number.isFinite(s.raw.y[i]));
        for (const x of bad.slice(0, 20)) draw("text", { x: X(x) - 4, y: T + 9, class: "bad" }, svg).textContent = "×";
      }
      this.over = draw("g", {}, svg);
      this.plot.replaceChildren(svg);
      if (this.cursor !== null) this.show(this.cursor);
    }
    path({ x, y }, colour, kind, svg) {
      let d = "", pen = "M";
      for (let i = 0; i < x.length; i++) {
        if (!Number.isFinite(y[i])) pen = "M";
        else { d += `${pen}${this.X(x[i]).toFixed(1)} ${this.inside(y[i]).toFixed(1)}`; pen = "L"; }
      }
      draw("path", { d: d || "M0 0", class: kind, style: `stroke:${colour}` }, svg);
      if (x.length <= 30 && kind !== "l raw") {
        for (let i = 0; i < x.length; i++) {
          if (Number.isFinite(y[i])) draw("circle", { cx: this.X(x[i]), cy: this.inside(y[i]), r: 2.2, style: `fill:${colour}` }, svg);
        }
      }
    }
    point(e) {
      if (!this.drawn) return;
      const box = this.plot.getBoundingClientRect(), px = (e.clientX - box.left) / box.width * this.width;
      const share = Math.max(0, Math.min(1, (px - this.L) / (this.width - this.L - this.R)));
      const step = state.logX ? this.first * (this.last / this.first) ** share : this.first + share * (this.last - this.first);
      this.show(step, (e.clientY - box.top) / box.height * this.height);
    }
    unpoint() { this.cursor = null; this.over?.replaceChildren(); this.read.replaceChildren(); }
    key(e) {
      const line = this.drawn?.find(s => s.raw.x.length)?.raw;
      if (!line || !["ArrowLeft", "ArrowRight", "Home", "End", "Escape"].includes(e.key)) return;
      e.preventDefault();
      if (e.key === "Escape") return this.unpoint();
      const n = line.x.length;
      let i = this.cursor === null ? (e.key === "ArrowLeft" ? n : -1) : nearest(line, this.cursor);
      const by = e.shiftKey ? Math.max(1, Math.round(n / 20)) : 1;
      i = { ArrowLeft: i - by, ArrowRight: i + by, Home: 0, End: n - 1 }[e.key];
      this.show(line.x[Math.max(0, Math.min(n - 1, i))]);
    }
    show(step, py) {
      this.cursor = step;
      this.over.replaceChildren();
      let found = [];
      for (const s of this.drawn) {
        if (!s.raw.x.length) continue;
        const i = nearest(s.raw, step);
        if (step > s.raw.x[s.raw.x.length - 1] || step < s.raw.x[0]) { if (Math.abs(s.raw.x[i] - step) > (this.last - this.first) * 0.02) continue; }
        found.push({ s, x: s.raw.x[i], y: s.raw.y[i], low: s.band?.low[i], high: s.band?.high[i] });
      }
      if (!found.length) return;
      const middle = found.reduce((a, b) => (Math.abs(b.x - step) < Math.abs(a.x - step) ? b : a)).x;
      draw("line", { x1: this.X(middle), x2: this.X(middle), y1: this.T, y2: this.height - this.B, class: "rule" }, this.over);
      if (py !== undefined) found.sort((a, b) => Math.abs(this.inside(a.y) - py) - Math.abs(this.inside(b.y) - py));
      const more = found.length - 8;
      found = found.slice(0, 8).sort((a, b) => a.y - b.y);
      for (const f of found) {
        if (Number.isFinite(f.y)) draw("circle", { cx: this.X(f.x), cy: this.inside(f.y), r: 3.5, style: `fill:${f.s.c}` }, this.over);
      }
      this.read.replaceChildren(make("span", {}, `step ${middle.toLocaleString("en")}`), ...found.map(f => make("span", {},
        make("i", { className: "dot", style: `background:${f.s.c}` }),
        ...(this.drawn.length > 1 ? [f.s.label + "\u00a0"] : []),
        make("b", {}, say(f.y)), f.low === undefined ? "" : `\u00a0(${say(f.low)} … ${say(f.high)})`)), ...(more > 0 ? [`and ${more} more`] : []));
    }
  }
  const charts = [...document.querySelectorAll("figure.chart")].map(f => new Chart(f));
  const owners = new Map(charts.map(c => [c.plot, c]));
  const redraw = () => { for (const c of charts) { c.dirty = true; if (c.near) c.render(); } kept.set("state", state); };
  const near = new IntersectionObserver(entries => {
    for (const e of entries) {
      const c = owners.get(e.target);
      c.near = e.isIntersecting;
      if (c.near && c.dirty) c.render();
    }
    root.dataset.ready ??= performance.now().toFixed(0);
  }, { rootMargin: "300px" });
  charts.forEach(c => near.observe(c.plot));
  if (!charts.length) root.dataset.ready = performance.now().toFixed(0);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });

  // --- the tools above the charts ---
  const tools = document.getElementById("tools"), row = make("div", { className: "row" });
  const check = (name, text, title) => {
    const box = make("input", { type: "checkbox", checked: state[name] });
    box.onchange = () => { state[name] = box.checked; redraw(); };
    row.append(make("label", { title }, box, text));
  };
  if (charts.length) {
    const shown = make("output", {}, state.smooth.toFixed(2));
    const slide = make("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: state.smooth, ariaLabel: "smoothing" });
    let wait = 0;
    slide.oninput = () => { state.smooth = +slide.value; shown.textContent = state.smooth.toFixed(2); clearTimeout(wait); wait = setTimeout(redraw, 15); };
    row.append(make("label", { title: "exponential, as in TensorBoard" }, "smoothing", slide, shown));
    if (several) check("bands", "seeds as bands", "mean, and from the lowest to the highest of runs that differ only in their seed");
    check("logX", "log steps", "logarithmic steps");
    check("logY", "log values", "logarithmic values");
    check("whole", "whole range", "also the few values far above all others, such as the first losses");
  }
  const themes = ["", "light", "dark"], theme = make("button", { type: "button" });
  const paint = () => {
    if (state.theme) root.dataset.theme = state.theme; else delete root.dataset.theme;
    theme.textContent = { "": "◐ as the system", light: "○ light", dark: "● dark" }[state.theme];
  };
  theme.onclick = () => { state.theme = themes[(themes.indexOf(state.theme) + 1) % 3]; paint(); kept.set("state", state); };
  paint();
  row.append(theme);
  tools.append(row);
  if (data.groups.length > 1 && charts.length) {
    const legend = make("div", { className: "legend", role: "group", ariaLabel: "runs" });
    const chips = data.groups.map(g => {
      const chip = make("button", { type: "button", title: "click: show or hide; double click: only this one" },
        make("i", { className: "dot", style: `background:${g.c}` }), g.l + (g.n > 1 ? ` ×${g.n}` : ""));
      chip.onclick = () => { state.hidden = state.hidden.includes(g.l) ? state.hidden.filter(l => l !== g.l) : [...state.hidden, g.l]; press(); };
      chip.ondblclick = () => { state.hidden = data.groups.map(o => o.l).filter(l => l !== g.l); press(); };
      legend.append(chip);
      return chip;
    });
    const press = () => { chips.forEach((c, i) => c.setAttribute("aria-pressed", !state.hidden.includes(data.groups[i].l))); redraw(); };
    const all = make("button", { type: "button" }, "all");
    all.onclick = () => { state.hidden = []; press(); };
    legend.append(all);
    tools.append(legend);
    press();
  }

  // --- sliders over steps ---
  for (const el of document.querySelectorAll(".stepper")) {
    const states = [...el.children], shown = make("output");
    const slide = make("input", { type: "range", min: 0, max: states.length - 1, value: states.length - 1, ariaLabel: `step of ${el.dataset.label}` });
    slide.oninput = () => {
      states.forEach((s, i) => { s.hidden = i !== +slide.value; });
      shown.textContent = slide.ariaValueText = `step ${(+states[slide.value].dataset.step).toLocaleString("en")}`;
    };
    el.prepend(make("div", { className: "slider" }, slide, shown));
    slide.oninput();
  }

  // --- tables by any of their columns ---
  const worth = text => { // numbers by value, what is none of them behind, by letter
    const found = text.replace(/,/g, "").replace("−", "-").match(/^\s*-?\d+(\.\d+)?(e[-+]?\d+)?/);
    return found ? [0, +found[0]] : [text === "–" ? 2 : 1, text];
  };
  for (const table of document.querySelectorAll("section table:not(.heat)")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    if (body.rows.length < 2) continue;
    heads.forEach((head, i) => {
      const sort = () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(h => h.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map(row => [worth(row.cells[i].textContent), row]);
        rows.sort(([[a, x]], [[b, y]]) => (a - b) || (a === 2 ? 0 : (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1)));
        body.append(...rows.map(r => r[1]));
      };
      head.classList.add("sort"); head.tabIndex = 0; head.setAttribute("aria-sort", "none"); head.title ||= "sort";
      head.onclick = sort;
      head.onkeydown = e => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); sort(); } };
    });
  }

  // --- layers and heads of attention ---
  const peers = new Map(); // of the same text at several steps: what is chosen for one is chosen for all
  for (const table of document.querySelectorAll("table[data-attention]")) {
    const place = table.dataset.attention, { layers } = JSON.parse(document.getElementById(`attention-${place}`).textContent);
    const finite = v => (typeof v === "number" ? v : NaN); // what is no number stands there as text
    const layer = make("select", { ariaLabel: "layer" }), head = make("select", { ariaLabel: "head" });
    layers.forEach((l, i) => layer.append(new Option(l.name, i)));
    layer.value = layers.length - 1;
    const fill = () => {
      const n = layers[layer.value].heads.length, old = head.value;
      head.replaceChildren(...(n > 1 ? [new Option(`mean of ${n} heads`, "mean")] : []), ...Array.from({ length: n }, (_, i) => new Option(`head ${i}`, i)));
      if ([...head.options].some(o => o.value === old)) head.value = old;
    };
    const show = () => {
      const { heads } = layers[layer.value], rows = table.tBodies[0].rows;
      for (let t = 0; t < rows.length; t++) {
        const cells = rows[t].querySelectorAll("td");
        cells.forEach((cell, s) => {
          const v = head.value === "mean" ? heads.reduce((sum, h) => sum + finite(h[t][s]), 0) / heads.length : finite(heads[head.value][t][s]);
          cell.style.setProperty("--v", v.toFixed(3)); cell.textContent = v.toFixed(2); cell.title = v.toFixed(4);
          cell.classList.toggle("strong", v > 0.7);
        });
      }
    };
    const group = table.closest(".stepper") ?? table, others = peers.get(group) ?? peers.set(group, []).get(group);
    const take = (l, h) => { layer.value = l; fill(); if ([...head.options].some(o => o.value === h)) head.value = h; show(); };
    others.push(take);
    layer.onchange = head.onchange = () => { const l = layer.value, h = head.value; others.forEach(t => t(l, h)); };
    fill();
    document.querySelector(`[data-about="${place}"]`).replaceChildren(make("div", { className: "slider" }, layer, head));
  }

  // --- where one is; printing; news of a live run ---
  const links = new Map([...document.querySelectorAll("nav a")].map(a => [a.hash.slice(1), a]));
  const here = new IntersectionObserver(entries => {
    for (const e of entries) {
      const link = links.get(e.target.id);
      if (!e.isIntersecting || !link) continue;
      links.forEach(a => a.classList.toggle("here", a === link));
      link.parentElement.scrollTo({ left: link.offsetLeft - 120 });
    }
  }, { rootMargin: "-20% 0px -70%" });
  document.querySelectorAll("section").forEach(s => here.observe(s));
  addEventListener("beforeprint", () => {
    charts.forEach(c => { if (c.dirty) c.render(); });
    document.querySelectorAll("details").forEach(d => { d.open = true; });
  });
  if (data.live) {
    const status = document.getElementById("status");
    let version = null;
    const ask = async () => {
      if (document.hidden) return;
      try {
        const now = await (await fetch("version", { cache: "no-store" })).text();
        if (version !== null && now !== version) location.reload();
        version = now;
        status.textContent = `live, asked ${new Date().toLocaleTimeString()}`;
      } catch { status.textContent = "the server of this page has stopped; what is shown stays"; }
    };
    ask();
    setInterval(ask, 2000);
  }
})();
