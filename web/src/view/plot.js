// Small charts as SVG: lines with a readout under the pointer, and matrices as tables of colour.
import { digits, isNumber, make } from "./dom.js";
import { classColour, palette } from "./paint.js";

const NS = "http://www.w3.org/2000/svg";
export function svg(tag, about = {}, ...inside) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(about)) value != null && made.setAttribute(name, value);
  made.append(...inside);
  return made;
}
const WIDE = 360, TALL = 200, LEFT = 52, LOW = 24;

export function ticks(low, high, count = 4) {
  const raw = (high - low || 1) / count, power = 10 ** Math.floor(Math.log10(raw)), step = power * [1, 2, 5, 10].find((one) => one * power >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}
export const span = (values) => {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (isNumber(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  return low > high ? [0, 1] : low === high ? [low - (Math.abs(low) / 2 || 1), high + (Math.abs(high) / 2 || 1)] : [low, high];
};

// lines: {name, x, y, dashed, strong}; at(x): what happens where the pointer is, null when it leaves.
export function lines(title, { x: xName = "", y: yName = "", lines: given, steps = false, level = null, at = null }) {
  const [x0, x1] = span(given.flatMap((one) => one.x)), [y0, y1] = span([...given.flatMap((one) => one.y), ...(isNumber(level) ? [level] : [])]);
  const X = (v) => LEFT + ((WIDE - LEFT - 8) * (v - x0)) / (x1 - x0), Y = (v) => 8 + (TALL - LOW - 8) * (1 - (v - y0) / (y1 - y0));
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, class: "plot", role: "img", "aria-label": `${title}: ${given.map((one) => one.name).join(", ")}` });
  for (const v of ticks(y0, y1)) picture.append(svg("line", { x1: LEFT, x2: WIDE - 8, y1: Y(v), y2: Y(v), class: "grid" }), svg("text", { x: LEFT - 4, y: Y(v) + 4, "text-anchor": "end" }, digits(Number(v.toPrecision(3)))));
  for (const v of ticks(x0, x1)) picture.append(svg("text", { x: X(v), y: TALL - 8, "text-anchor": "middle" }, digits(Number(v.toPrecision(4)))));
  if (isNumber(level)) picture.append(svg("line", { x1: LEFT, x2: WIDE - 8, y1: Y(level), y2: Y(level), class: "level" }));
  given.forEach((one, i) => {
    let path = "", last = null;
    one.x.forEach((x, k) => {
      if (!isNumber(one.y[k])) { last = null; return; }
      path += last === null ? `M${X(x).toFixed(1)} ${Y(one.y[k]).toFixed(1)}` : steps ? `H${X(x).toFixed(1)}V${Y(one.y[k]).toFixed(1)}` : `L${X(x).toFixed(1)} ${Y(one.y[k]).toFixed(1)}`;
      last = k;
    });
    picture.append(svg("path", { d: path, fill: "none", stroke: one.colour ?? classColour(i), "stroke-width": one.strong ? 2.5 : 1.25, "stroke-dasharray": one.dashed ? "4 3" : i >= 10 ? "8 3" : null, opacity: one.dashed ? 0.7 : 1 }));
  });
  const hair = svg("line", { y1: 8, y2: TALL - LOW, class: "hair", visibility: "hidden" }), said = make("output", { className: "readout" });
  picture.append(hair);
  const values = (x) => given.map((one, i) => {
    let k = 0;
    if (steps) { while (k + 1 < one.x.length && one.x[k + 1] <= x) k++; }
    else one.x.forEach((v, j) => { if (Math.abs(v - x) < Math.abs(one.x[k] - x)) k = j; });
    return [one, one.x[k], one.y[k], i];
  });
  picture.onpointermove = (event) => {
    const box = picture.getBoundingClientRect(), x = x0 + ((x1 - x0) * ((WIDE * (event.clientX - box.left)) / box.width - LEFT)) / (WIDE - LEFT - 8);
    const inside = Math.max(x0, Math.min(x1, x)), found = values(inside), shown = steps ? inside : found[0]?.[1] ?? inside;
    hair.setAttribute("x1", X(shown)); hair.setAttribute("x2", X(shown)); hair.setAttribute("visibility", "visible");
    said.replaceChildren(`${xName} ${digits(Number(shown.toPrecision(4)))}: `, ...found.map(([one, , y, i]) => make("span", { style: `color:${one.colour ?? classColour(i)}`, title: one.name }, `${digits(isNumber(y) ? Number(y.toPrecision(5)) : null) || "none"} `)));
    at?.(shown);
  };
  picture.onpointerleave = () => { hair.setAttribute("visibility", "hidden"); said.textContent = ""; at?.(null); };
  const legend = make("figcaption", { className: "legend" }, ...given.map((one, i) => make("span", {}, make("i", { style: `background:${one.colour ?? classColour(i)}` }), one.name)));
  return make("figure", { className: "chart" }, make("figcaption", {}, make("strong", { textContent: title }), ` ${yName && yName !== title ? yName : ""} `, said), picture, legend);
}

export function matrix({ title, rows, columns, values }) {
  const [low, high] = span(values.flat()), table = palette("viridis", false), said = make("output", { className: "readout" });
  const cell = (value, r, c) => {
    const at = isNumber(value) ? 3 * Math.round((255 * (value - low)) / (high - low)) : -1;
    const style = at < 0 ? "background:repeating-linear-gradient(45deg,#888 0 2px,#ccc 2px 5px)" : `background:rgb(${table[at]},${table[at + 1]},${table[at + 2]});color:${at > 400 ? "#000" : "#fff"}`;
    const words = `${rows[r]} \u2192 ${columns[c]}: ${isNumber(value) ? digits(value) : "none"}`;
    return make("td", { style, title: words, onpointerenter: () => { said.textContent = words; } }, columns.length <= 12 && isNumber(value) ? String(Number(value.toPrecision(3))) : "");
  };
  return make("figure", { className: "chart wide" }, make("figcaption", {}, make("strong", { textContent: title }), " ", said),
    make("div", { className: "scroll", tabIndex: 0 }, make("table", { className: "heat" }, make("thead", {}, make("tr", {}, make("th"), ...columns.map((name) => make("th", { scope: "col" }, make("span", { textContent: name }))))),
      make("tbody", {}, ...values.map((line, r) => make("tr", {}, make("th", { scope: "row", textContent: rows[r] }), ...line.map((value, c) => cell(value, r, c))))))));
}
