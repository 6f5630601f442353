// The parts that every explorer is made of. `ftcourse.explore` puts this file in front of NAME.js, which defines
// `function explore(kit, data)`. The result is one ES module, drawn by Jupyter (anywidget calls `render`) and by a plain page alike.

const COLOURS = { trained: "#2f9676", other: "#4a82cf", wrong: "#d2603f", base: "#8a929c", fifth: "#8f74b8", sixth: "#b8933b" };
const SVG = "http://www.w3.org/2000/svg";

const STYLE = `
.ft { color: inherit; font: 14px/1.45 system-ui, sans-serif; border: 1px solid #8886; border-radius: 6px; padding: .7rem .9rem; margin: .5rem 0; max-width: 46rem; box-sizing: border-box; }
.ft * { box-sizing: border-box; }
.ft-controls { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: .35rem 1.4rem; margin-bottom: .5rem; }
.ft label { display: flex; flex-wrap: wrap; align-items: center; gap: 0 .5rem; color: inherit; margin: 0; }
.ft label > span { flex: 1 1 auto; }
.ft label > output { font-variant-numeric: tabular-nums; font-weight: 600; color: inherit; }
.ft input[type=range] { flex: 1 1 100%; width: 100%; margin: .1rem 0 .25rem; accent-color: #2f9676; }
.ft input[type=checkbox] { accent-color: #2f9676; width: 1.05rem; height: 1.05rem; }
.ft select { color: inherit; background: transparent; border: 1px solid #8889; border-radius: 4px; padding: .15rem .3rem; font: inherit; max-width: 100%; }
.ft option { color: #222; background: #fff; }
.ft-pictures { display: flex; flex-wrap: wrap; gap: .6rem 1rem; }
.ft figure { margin: 0; flex: 1 1 9rem; max-width: 17rem; color: inherit; }
.ft figcaption { font-size: 12px; color: inherit; margin: 0; text-align: left; }
.ft canvas { width: 100%; image-rendering: pixelated; border-radius: 3px; display: block; }
.ft svg { display: block; width: 100%; overflow: visible; }
.ft svg text { fill: currentColor; font: 11px system-ui, sans-serif; }
.ft-legend { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: 12px; min-height: 1.3em; }
.ft-legend i { display: inline-block; width: .8rem; height: .55rem; border-radius: 2px; margin-right: .35rem; }
.ft-out { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(13rem, 100%), 1fr)); gap: .1rem 1.4rem; margin: .5rem 0 0; font-variant-numeric: tabular-nums; }
.ft-out div { display: flex; justify-content: space-between; gap: .8rem; border-bottom: 1px dotted #8886; }
.ft-out dt { font-weight: 400; margin: 0; } .ft-out dd { margin: 0; font-weight: 600; text-align: right; }
`;

function element(parent, tag, attributes = {}, text) {
  const e = tag in { svg: 1, g: 1, line: 1, path: 1, rect: 1, circle: 1, text: 1 } ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  parent.appendChild(e);
  return e;
}

// A number for a reader: 3 significant digits, thousands apart, small ones as 2e-4.
function tidy(v) {
  if (typeof v !== "number") return String(v);
  if (v === 0) return "0";
  const a = Math.abs(v);
  if (a < 1e-3) { const [m, e] = v.toExponential(1).split("e"); return `${m.replace(/\.0$/, "")}e${+e}`; }
  if (a >= 1e6) return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(v);
  return a >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(3));
}

function ticks([lo, hi], log, most) {
  if (log) {
    const a = Math.ceil(Math.log10(lo) - 1e-9), b = Math.floor(Math.log10(hi) + 1e-9), step = Math.max(1, Math.ceil((b - a + 1) / most));
    const tens = []; for (let i = a; i <= b; i += step) tens.push(10 ** i);
    return tens.length > 1 ? tens : [lo, hi];
  }
  const rough = (hi - lo) / most || 1, ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * ten).find(s => s >= rough), out = [];
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i++) out.push(+(i * step).toPrecision(12));
  return out;
}

function makeChart(root, { x, y, height = 220, alt = "" }) {
  const box = element(root, "div"), legend = element(root, "div", { class: "ft-legend" });
  const axes = { x: { ...x }, y: { ...y } };
  let items = [], width = 0;
  const colour = c => COLOURS[c] || c || "currentColor";

  function render() {
    if (!width) return;
    box.replaceChildren();
    const svg = element(box, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": alt });
    const left = 52, right = 10, top = 14, bottom = 36, clip = (v, [a, b]) => Math.min(Math.max(v, Math.min(a, b)), Math.max(a, b));
    const scale = ({ domain: [a, b], log }, from, to) => v => {
      const f = log ? Math.log : (u => u), w = clip(log ? Math.max(v, 1e-300) : v, [a, b]);
      return from + (f(w) - f(a)) / (f(b) - f(a) || 1) * (to - from);
    };
    const px = scale(axes.x, left, width - right), py = scale(axes.y, height - bottom, top);
    const format = a => a.format || tidy;
    for (const t of axes.y.ticks || ticks(axes.y.domain, axes.y.log, 4)) {
      element(svg, "line", { x1: left, x2: width - right, y1: py(t), y2: py(t), stroke: "currentColor", "stroke-opacity": .15 });
      element(svg, "text", { x: left - 6, y: py(t) + 4, "text-anchor": "end" }, format(axes.y)(t));
    }
    for (const t of axes.x.ticks || ticks(axes.x.domain, axes.x.log, width < 420 ? 4 : 7))
      element(svg, "text", { x: px(t), y: height - bottom + 15, "text-anchor": "middle" }, format(axes.x)(t));
    element(svg, "line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, stroke: "currentColor", "stroke-opacity": .6 });
    element(svg, "text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, axes.x.label || "");
    element(svg, "text", { x: 2, y: 9 }, axes.y.label || "");
    for (const i of items) {
      if (i.kind === "line")
        element(svg, "path", { d: i.points.map(([a, b], n) => `${n ? "L" : "M"}${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join(""), fill: "none", stroke: colour(i.color),
          "stroke-width": i.width || 2, ...(i.dash ? { "stroke-dasharray": "5 4" } : {}) });
      if (i.kind === "bars")
        for (const b of i.bars) {
          const a = px(b.x0), c = px(b.x1), t = py(b.y), f = py(b.y0 ?? (axes.y.log ? axes.y.domain[0] : 0));
          element(svg, "rect", { x: Math.min(a, c), y: Math.min(t, f), width: Math.max(Math.abs(c - a) - (i.gap ?? .5), .5), height: Math.abs(f - t), fill: colour(b.color), ...(b.opacity ? { opacity: b.opacity } : {}) });
        }
      if (i.kind === "dots")
        for (const [a, b] of i.points) element(svg, "circle", { cx: px(a), cy: py(b), r: i.r || 3, fill: colour(i.color) });
      if (i.kind === "rule") {
        const at = i.x !== undefined ? { x1: px(i.x), x2: px(i.x), y1: top, y2: height - bottom } : { x1: left, x2: width - right, y1: py(i.y), y2: py(i.y) };
        element(svg, "line", { ...at, stroke: colour(i.color), "stroke-dasharray": "3 3", "stroke-width": 1.5 });
        const end = i.x !== undefined && px(i.x) > width * .7;
        if (i.label) element(svg, "text", i.x !== undefined ? { x: px(i.x) + (end ? -4 : 4), y: top + 10, "text-anchor": end ? "end" : "start" }
                                                            : { x: width - right, y: py(i.y) - 4, "text-anchor": "end" }, i.label);
      }
      if (i.kind === "note") element(svg, "text", { x: px(i.x), y: py(i.y), "text-anchor": i.anchor || "start" }, i.text);
    }
    legend.replaceChildren();
    const seen = new Set();
    for (const i of items.flatMap(i => i.kind === "bars" ? i.bars : i.kind === "rule" ? [] : [i])) {
      if (!i.label || seen.has(i.label)) continue;
      seen.add(i.label);
      const s = element(legend, "span");
      element(s, "i", { style: `background:${colour(i.color)}` });
      s.append(i.label);
    }
  }
  new ResizeObserver(() => { if (box.clientWidth && box.clientWidth !== width) { width = box.clientWidth; render(); } }).observe(box);
  return {
    render, clear() { items = []; },
    domain(d) { if (d.x) axes.x.domain = d.x; if (d.y) axes.y.domain = d.y; },
    label(d) { if (d.x) axes.x.label = d.x; if (d.y) axes.y.label = d.y; },
    line(points, o = {}) { items.push({ kind: "line", points, ...o }); },
    bars(bars, o = {}) { items.push({ kind: "bars", bars, ...o }); },
    dots(points, o = {}) { items.push({ kind: "dots", points, ...o }); },
    rule(o) { items.push({ kind: "rule", ...o }); },
    note(x, y, text, anchor) { items.push({ kind: "note", x, y, text, anchor }); },
  };
}

function mount(el, data, { initial = {}, changed = () => {} } = {}) {
  el.classList.add("ft");
  // JupyterLab listens at the document: without this, arrow keys on a slider would move its selected cell, and "dd" would delete it
  const keep = e => { if (el.contains(e.target) && !e.ctrlKey && !e.metaKey && !["Escape", "Tab"].includes(e.key)) e.stopPropagation(); };
  window.addEventListener("keydown", keep, true);
  element(el, "style", {}, STYLE);
  const controls = element(el, "div", { class: "ft-controls" }), settings = {}, draws = [], charts = [];
  let pictures;
  const redraw = () => { draws.forEach(d => d()); charts.forEach(c => c.render()); };
  const moved = () => { redraw(); changed({ ...settings }); };
  function control(name, label) {
    const row = element(controls, "label", { "data-name": name });
    element(row, "span", {}, label);
    return row;
  }
  const kit = {
    colours: COLOURS, tidy,
    slider(name, { label, values, min, max, step = 1, value, format = tidy }) {
      const row = control(name, label), shown = element(row, "output");
      const input = element(row, "input", { type: "range", ...(values ? { min: 0, max: values.length - 1, step: 1 } : { min, max, step }) });
      const start = initial[name] ?? value;
      input.value = values ? Math.max(values.indexOf(start), 0) : start;
      const read = () => { settings[name] = values ? values[+input.value] : +input.value; shown.textContent = format(settings[name]); input.setAttribute("aria-valuetext", shown.textContent); };
      read(); input.addEventListener("input", () => { read(); moved(); });
      return { get value() { return settings[name]; } };
    },
    choice(name, { label, options, value }) {
      const row = control(name, label), input = element(row, "select");
      for (const o of options) element(input, "option", { value: o }, o);
      input.value = settings[name] = initial[name] ?? value ?? options[0];
      input.addEventListener("change", () => { settings[name] = input.value; moved(); });
      return { get value() { return settings[name]; } };
    },
    toggle(name, { label, value = false }) {
      const row = control(name, label), input = element(row, "input", { type: "checkbox" });
      input.checked = settings[name] = initial[name] ?? value;
      input.addEventListener("change", () => { settings[name] = input.checked; moved(); });
      return { get value() { return settings[name]; } };
    },
    chart(options) { const c = makeChart(el, options); charts.push(c); return c; },
    image({ width, height, alt = "", caption = "" }) {
      pictures ??= element(el, "div", { class: "ft-pictures" });
      const figure = element(pictures, "figure"), canvas = element(figure, "canvas", { width, height, role: "img", "aria-label": alt });
      const title = element(figure, "figcaption", {}, caption), context = canvas.getContext("2d");
      return {
        show(values, lo, hi) {
          const pixels = context.createImageData(width, height);
          for (let i = 0; i < width * height; i++) {
            const g = Math.round(255 * Math.min(Math.max((values[i] - lo) / (hi - lo), 0), 1));
            pixels.data.set([g, g, g, 255], 4 * i);
          }
          context.putImageData(pixels, 0, 0);
        },
        caption(text) { title.textContent = text; },
      };
    },
    readout() {
      const list = element(el, "dl", { class: "ft-out", "aria-live": "polite" });
      return { show(pairs) {
        list.replaceChildren();
        for (const [k, v] of pairs) { const d = element(list, "div"); element(d, "dt", {}, k); element(d, "dd", {}, typeof v === "number" ? tidy(v) : v); }
      } };
    },
    panel(attributes = {}) { return element(el, "div", attributes); },  // a place for an explorer's own elements
    draw(f) { draws.push(f); redraw(); },
  };
  explore(kit, data);
  changed({ ...settings });
  return () => window.removeEventListener("keydown", keep, true);
}

export default {
  render({ model, el }) {
    const root = document.createElement("div");
    el.appendChild(root);
    return mount(root, model.get("data"), { initial: model.get("settings"), changed(s) { model.set("settings", s); model.save_changes(); } });
  },
};
