// Everything beside the plot: legend and filter, tooltip, the list of what the lasso caught.
import * as data from "./data.js";

const $ = (id) => document.getElementById(id);
const SHOWN = 400;

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class Panel {
  // plot: {recolour(column), filter(indices or null), unselect()}
  constructor(plot) {
    this.plot = plot;
    this.hidden = new Set();
    this.pointed = -1;
    this.links = null;
    $("labels").checked = Boolean(data.clusters);
    $("labels").onchange = () => this.overlay();
    this.column = Math.max(0, data.columns.findIndex((column) => column.name === data.colorBy));
    $("title").textContent = data.title;
    document.title = data.title || "points";
    $("count").textContent = `${data.count.toLocaleString("en")} points`;
    for (const [i, column] of data.columns.entries()) $("by").append(element("option", { value: i, textContent: column.name }));
    if (data.columns.length) $("by").value = this.column;
    else $("by").hidden = true;
    $("by").onchange = () => this.recolour(Number($("by").value));
    $("find").oninput = () => this.legend();
    $("all").onclick = () => this.show(() => true);
    $("none").onclick = () => this.show(() => false);
    $("clear").onclick = () => {
      this.plot.unselect();
      this.select([]);
    };
    $("copy").onclick = () => {
      $("ids").select();
      document.execCommand("copy");
    };
    this.limits = new Map();
    $("seek").oninput = () => this.seek($("seek").value);
    this.histograms();
    this.legend();
    this.select([]);
    addEventListener("message", ({ source, data: told }) => {
      if (source !== parent || !told || typeof told !== "object") return;
      if (told.loupe === "neighbours") { this.links = told; this.overlay(); }
      if (told.loupe === "theme") { document.documentElement.dataset.theme = told.dark ? "dark" : "light"; this.plot.theme?.(); this.overlay(); }
    });
  }

  // Ids that contain the words; the first of them is pointed at.
  seek(text) {
    const wanted = text.trim().toLowerCase(), found = [];
    if (wanted) for (let i = 0; i < data.count && found.length < 2000; i++) if (data.idOf(i).toLowerCase().includes(wanted)) found.push(i);
    found.sort((a, b) => (data.idOf(a).toLowerCase() !== wanted) - (data.idOf(b).toLowerCase() !== wanted));
    this.plot.choose?.(found);
    this.select(found);
    this.pointed = found[0] ?? -1;
    this.links = null;
    this.overlay();
  }

  // Up to four columns of numbers, each a filter of all views by dragging over it.
  histograms() {
    const BINS = 40, numbers = data.columns.filter((column) => column.kind === "number" && column.high > column.low).slice(0, 4);
    $("histograms").replaceChildren(...numbers.map((column) => {
      const counts = new Array(BINS).fill(0), place = (v) => Math.min(BINS - 1, Math.floor(((v - column.low) * BINS) / (column.high - column.low)));
      for (const value of column.values) if (Number.isFinite(value)) counts[place(value)]++;
      const most = Math.max(...counts), bars = element("div", { className: "bars", tabIndex: 0, role: "slider" });
      bars.setAttribute("aria-label", `filter by ${column.name}`);
      bars.setAttribute("aria-valuetext", "all");
      bars.append(...counts.map((count) => element("i", { style: `height:${Math.max(count ? 1 : 0, Math.round((28 * count) / most))}px`, title: String(count) })));
      const clear = element("button", { textContent: "\u00d7", hidden: true }), said = element("span", { textContent: column.name });
      clear.setAttribute("aria-label", `no filter by ${column.name}`);
      const limit = (a, b) => {
        const [low, high] = [Math.min(a, b), Math.max(a, b)], width = (column.high - column.low) / BINS, ends = [column.low + low * width, high === BINS - 1 ? column.high : column.low + (high + 1) * width];
        this.limits.set(column, [...ends, high === BINS - 1]);
        said.textContent = `${column.name}: ${data.words(column, column.dates ? ends[0] : Number(ends[0].toPrecision(4)))} \u2026 ${data.words(column, column.dates ? ends[1] : Number(ends[1].toPrecision(4)))}`;
        bars.setAttribute("aria-valuetext", said.textContent);
        [...bars.children].forEach((bar, i) => bar.classList.toggle("out", i < low || i > high));
        clear.hidden = false;
        this.apply();
      };
      clear.onclick = () => { this.limits.delete(column); clear.hidden = true; said.textContent = column.name; for (const bar of bars.children) bar.classList.remove("out"); this.apply(); };
      let from = null;
      const at = (event) => { const box = bars.getBoundingClientRect(); return Math.max(0, Math.min(BINS - 1, Math.floor(((event.clientX - box.left) * BINS) / box.width))); };
      bars.onpointerdown = (event) => { from = at(event); bars.setPointerCapture(event.pointerId); };
      bars.onpointerup = (event) => { if (from !== null) limit(from, at(event)); from = null; };
      bars.onkeydown = (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        const [low, high] = this.limits.get(column) ?? [column.low, column.high], width = (column.high - column.low) / BINS, a = Math.round((low - column.low) / width), b = Math.round((high - column.low) / width) - 1;
        event.shiftKey ? limit(a, Math.max(a, Math.min(BINS - 1, b + step))) : limit(Math.max(0, Math.min(b, a + step)), b);
        event.preventDefault();
      };
      return element("div", { className: "histogram" }, element("div", {}, said, clear), bars);
    }));
  }

  // A click: the point and what is known about it, here and, where the page stands in another, there.
  point(i) {
    this.pointed = i;
    this.links = null;
    this.overlay();
    if (i >= 0 && parent !== window) parent.postMessage({ loupe: "point", index: i, id: data.idOf(i) }, "*");
  }

  // Names of classes at their middles, where they do not touch, and lines from the clicked point to its neighbours.
  overlay() {
    const draw = document.getElementById("links"), NS = "http://www.w3.org/2000/svg", taken = [];
    const add = (tag, about, text) => { const made = document.createElementNS(NS, tag); for (const [name, value] of Object.entries(about)) made.setAttribute(name, value); if (text) made.textContent = text; draw.append(made); return made; };
    draw.replaceChildren();
    if (this.pointed >= 0) {
      const [x, y] = this.plot.screen(this.pointed);
      (this.links?.of ?? []).forEach((other, k) => { const [u, v] = this.plot.screen(other); add("line", { x1: x, y1: y, x2: u, y2: v, class: this.links.kept[k] ? "kept" : "lost" }); });
      add("circle", { cx: x, cy: y, r: 6, class: "pointed" });
    }
    if (!$("labels").checked || (!data.clusters && this.current?.kind !== "category")) return;
    for (const code of this.middles()) {
      const [x, y] = this.plot.screen(code.at), wide = code.name.length * 7, box = [x - wide / 2 - 4, y - 9, x + wide / 2 + 4, y + 9];
      if (taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
      taken.push(box);
      add("text", { x, y: y + 4, "text-anchor": "middle", class: "label" }, code.name.length > 24 ? code.name.slice(0, 23) + "\u2026" : code.name);
    }
  }

  // Of every shown class the point nearest to its middle, largest first.
  middles() {
    if (data.clusters) return data.clusters.map(({ name, middle, count }) => ({ name, at: middle, count })).sort((a, b) => b.count - a.count);
    const column = this.current;
    if (this.held?.column === column && this.held.hidden === [...this.hidden].join()) return this.held.found;
    const sums = column.names.map(() => [0, 0, 0, 0]), best = column.names.map(() => [-1, Infinity]), d = data.dims;
    for (let i = 0; i < data.count; i++) { const sum = sums[column.values[i]]; for (let k = 0; k < d; k++) sum[k] += data.places[d * i + k]; sum[3]++; }
    for (let i = 0; i < data.count; i++) {
      const code = column.values[i], sum = sums[code];
      let away = 0;
      for (let k = 0; k < d; k++) away += (data.places[d * i + k] - sum[k] / sum[3]) ** 2;
      if (away < best[code][1]) best[code] = [i, away];
    }
    const found = column.names.map((name, code) => ({ name, at: best[code][0], count: sums[code][3] })).filter((one, code) => one.at >= 0 && !this.hidden.has(code)).sort((a, b) => b.count - a.count).slice(0, 60);
    this.held = { column, hidden: [...this.hidden].join(), found };
    return found;
  }

  get current() {
    return data.columns[this.column];
  }

  recolour(column) {
    this.column = column;
    this.hidden.clear();
    this.plot.recolour(this.current);
    this.apply();
    this.legend();
    this.overlay();
  }

  legend() {
    const list = $("legend");
    list.replaceChildren();
    const column = this.current;
    const categories = column && column.kind !== "number";
    for (const id of ["find", "all", "none"]) $(id).hidden = !categories;
    if (!column) return;
    if (!categories) {
      const colours = column.palette.filter((_, i) => i % 16 === 0).join(",");
      list.append(
        element("div", { className: "bar", style: `background:linear-gradient(90deg,${colours})` }),
        element("div", { className: "ends" }, data.words(column, column.dates || Number.isInteger(column.low) ? column.low : Number(column.low.toPrecision(4))), " \u2026 ", data.words(column, column.dates || Number.isInteger(column.high) ? column.high : Number(column.high.toPrecision(4)))),
        ...(column.missing ? [element("div", { className: "row" }, element("i", { style: `background:${column.palette.at(-1)}` }), element("span", { textContent: "missing" }), element("b", { textContent: column.missing.toLocaleString("en") }))] : []),
      );
      return;
    }
    const wanted = $("find").value.toLowerCase();
    const found = [...column.names.keys()].filter((i) => column.names[i].toLowerCase().includes(wanted));
    for (const code of found.slice(0, SHOWN)) {
      const row = element(
        "label",
        { className: "row" },
        element("input", { type: "checkbox", checked: !this.hidden.has(code), onchange: () => this.toggle(code) }),
        element("i", { style: `background:${column.palette[code]}` }),
        element("span", { textContent: column.names[code] }),
        element("b", { textContent: column.counts[code].toLocaleString("en") }),
      );
      row.ondblclick = () => this.show((other) => other === code);
      list.append(row);
    }
    if (found.length > SHOWN) list.append(element("div", { className: "more", textContent: `${found.length - SHOWN} more: search` }));
  }

  toggle(code) {
    if (!this.hidden.delete(code)) this.hidden.add(code);
    this.apply();
  }

  show(wanted) {
    this.hidden = new Set([...this.current.names.keys()].filter((code) => !wanted(code)));
    this.legend();
    this.apply();
  }

  apply() {
    this.overlay();
    const limits = [...this.limits];
    $("count").textContent = `${data.count.toLocaleString("en")} points`;
    if (!this.hidden.size && !limits.length) return this.plot.filter(null);
    const values = this.current?.values, shown = [];
    next: for (let i = 0; i < data.count; i++) {
      if (this.hidden.size && this.hidden.has(values[i])) continue;
      for (const [column, [low, high, last]] of limits) { const value = column.values[i]; if (!(value >= low && (last ? value <= high : value < high))) continue next; }
      shown.push(i);
    }
    $("count").textContent = `${shown.length.toLocaleString("en")} of ${data.count.toLocaleString("en")} points`;
    return this.plot.filter(shown);
  }

  select(indices) {
    $("chosen").hidden = !indices.length;
    $("howmany").textContent = `${indices.length.toLocaleString("en")} chosen`;
    $("ids").value = indices.map((i) => data.idOf(i)).join("\n");
  }

  hover(i, x, y) {
    const tip = $("tip");
    tip.hidden = i < 0;
    if (i < 0) return;
    tip.replaceChildren(element("strong", { textContent: data.idOf(i) }));
    for (const column of data.columns) tip.append(element("div", { textContent: `${column.name}: ${data.textOf(column, i)}` }));
    const picture = data.thumbnail(i);
    if (picture) tip.append(element("div", { className: "thumb", style: picture }));
    const frame = $("plot").getBoundingClientRect();
    tip.style.left = `${Math.min(x + 14, frame.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.min(y + 14, frame.height - tip.offsetHeight - 4)}px`;
  }
}
