// Two columns as a scatter, one column by groups, two runs sample by sample: each a click away from the sample.
import { digits, isNumber, make } from "./dom.js";
import { classColour } from "./paint.js";
import { span as ends, svg, ticks } from "./plot.js";
import { source } from "./source.js";
import { filters, get, set } from "./state.js";

const WIDE = 720, TALL = 480, LEFT = 60, LOW = 36, TOP = 12, RESAMPLES = 1000;
const kinds = (about, kind) => Object.entries(about.columns ?? {}).filter(([, one]) => one === kind).map(([name]) => name);
const picker = (id, label, names, chosen, act) => make("label", {}, `${label} `, make("select", { id, onchange: (event) => act(event.target.value) }, ...names.map((name) => make("option", { value: name, textContent: name, selected: name === chosen }))));

// An interval of 95 % of the mean by resampling, the same whenever it is asked.
export function interval(values) {
  const n = values.length, means = new Float64Array(RESAMPLES);
  let seed = 1;
  if (n < 2) return [NaN, NaN];
  for (let r = 0; r < RESAMPLES; r++) {
    let sum = 0;
    for (let i = 0; i < n; i++) { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; sum += values[Math.floor((seed / 4294967296) * n)]; }
    means[r] = sum / n;
  }
  means.sort();
  return [means[Math.round(0.025 * (RESAMPLES - 1))], means[Math.round(0.975 * (RESAMPLES - 1))]];
}
const span = (values) => { const [low, high] = ends(values), room = (high - low) * 0.04; return [low - room, high + room]; };
const median = (sorted, share) => { const at = share * (sorted.length - 1), low = Math.floor(at); return sorted[low] + (at - low) * (sorted[Math.min(sorted.length - 1, low + 1)] - sorted[low]); };

// Dots on a canvas, axes as SVG; the pointer names the nearest dot, a click opens it, a drag filters what it encloses.
function dots({ x, y, ids, groups = null, names, diagonal = false, open, brush, ordinal = null }) {
  const [x0, x1] = diagonal ? span([...x, ...y]) : ordinal ? [-0.5, ordinal.length - 0.5] : span(x), [y0, y1] = diagonal ? [x0, x1] : span(y);
  const X = (v) => LEFT + ((WIDE - LEFT - 8) * (v - x0)) / (x1 - x0), Y = (v) => TOP + (TALL - LOW - TOP) * (1 - (v - y0) / (y1 - y0));
  const canvas = make("canvas", { width: 2 * WIDE, height: 2 * TALL }), context = canvas.getContext("2d"), box = make("div", { className: "dots" });
  const axes = svg("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, class: "plot", role: "img", "aria-label": `${names[1]} against ${names[0]}, ${ids.length} samples` });
  for (const v of ticks(y0, y1, 6)) axes.append(svg("line", { x1: LEFT, x2: WIDE - 8, y1: Y(v), y2: Y(v), class: "grid" }), svg("text", { x: LEFT - 4, y: Y(v) + 4, "text-anchor": "end" }, digits(v)));
  if (ordinal) ordinal.forEach((name, i) => ordinal.length <= 40 && axes.append(svg("text", { x: X(i), y: TALL - LOW + 14, "text-anchor": ordinal.length > 10 ? "end" : "middle", transform: ordinal.length > 10 ? `rotate(-35 ${X(i)} ${TALL - LOW + 14})` : null }, name.length > 16 ? name.slice(0, 15) + "\u2026" : name)));
  else for (const v of ticks(x0, x1, 8)) axes.append(svg("text", { x: X(v), y: TALL - LOW + 16, "text-anchor": "middle" }, digits(v)));
  if (diagonal) axes.append(svg("line", { x1: X(x0), y1: Y(x0), x2: X(x1), y2: Y(x1), class: "level" }));
  axes.append(svg("text", { x: WIDE - 8, y: TALL - 4, "text-anchor": "end" }, names[0]), svg("text", { x: LEFT, y: TOP - 1 }, names[1]));
  const spread = ordinal ? ids.map((_, i) => ((Math.imul(i + 1, 2654435761) >>> 0) / 4294967296 - 0.5) * 0.6) : null, at = (i) => [X(x[i] + (spread ? spread[i] : 0)), Y(y[i])];
  context.scale(2, 2);
  context.globalAlpha = ids.length > 2000 ? 0.35 : 0.75;
  const radius = ids.length > 5000 ? 1.5 : 3;
  ids.forEach((_, i) => { if (!isNumber(x[i]) || !isNumber(y[i])) return; context.fillStyle = classColour(groups ? groups[i] : 0); context.beginPath(); context.arc(...at(i), radius, 0, 7); context.fill(); });
  const frame = svg("rect", { class: "brush", visibility: "hidden" }), said = make("output", { className: "readout" });
  axes.append(frame);
  const where = (event) => { const place = axes.getBoundingClientRect(); return [((event.clientX - place.left) * WIDE) / place.width, ((event.clientY - place.top) * TALL) / place.height]; };
  const nearest = ([px, py]) => { let best = -1, least = 144; ids.forEach((_, i) => { const [a, b] = at(i), d = (a - px) ** 2 + (b - py) ** 2; if (d < least) [best, least] = [i, d]; }); return best; };
  let from = null;
  axes.onpointerdown = (event) => { from = where(event); };
  axes.onpointermove = (event) => {
    const to = where(event), i = nearest(to);
    said.textContent = i < 0 ? "" : `${ids[i]}: ${names[0]} ${ordinal ? ordinal[x[i]] : digits(x[i])}, ${names[1]} ${digits(y[i])}`;
    box.dataset.near = i < 0 ? "" : ids[i];
    if (from && brush) for (const [name, value] of Object.entries({ x: Math.min(from[0], to[0]), y: Math.min(from[1], to[1]), width: Math.abs(to[0] - from[0]), height: Math.abs(to[1] - from[1]), visibility: "visible" })) frame.setAttribute(name, value);
  };
  axes.onpointerup = (event) => {
    const to = where(event), begun = from;
    from = null;
    frame.setAttribute("visibility", "hidden");
    if (begun && brush && Math.hypot(to[0] - begun[0], to[1] - begun[1]) > 8) {
      const back = (v, a, b, low, high) => low + ((v - a) * (high - low)) / (b - a), xs = [begun[0], to[0]].map((v) => back(v, LEFT, WIDE - 8, x0, x1)).sort((a, b) => a - b), ys = [begun[1], to[1]].map((v) => back(v, TALL - LOW, TOP, y0, y1)).sort((a, b) => a - b);
      return brush(xs, ys);
    }
    const i = nearest(to);
    if (i >= 0) open(ids[i]);
  };
  box.append(make("p", {}, said), make("div", { className: "plane" }, canvas, axes));
  return box;
}

export class Scatter {
  constructor(box, about) { Object.assign(this, { box, about }); }
  async load() {
    const numbers = kinds(this.about, "number"), run = get("run");
    if (numbers.length < 2) { this.box.replaceChildren(make("p", { className: "hint", textContent: "A scatter takes two columns of numbers; this run has fewer." })); return null; }
    const x = numbers.includes(get("x")) ? get("x") : numbers[0], y = numbers.includes(get("y")) ? get("y") : numbers[1], words = kinds(this.about, "text"), group = words.includes(get("group")) ? get("group") : "";
    const found = await source.columns(run, { names: [...new Set([x, y, ...(group ? [group] : [])])], filter: get("filter") });
    const classes = group ? [...new Set(found.values[group])].map(String).sort() : [];
    const plot = dots({ x: found.values[x], y: found.values[y], ids: found.ids, names: [x, y], diagonal: get("diagonal") === "1", groups: group ? found.values[group].map((v) => classes.indexOf(String(v))) : null,
      open: (id) => set({ view: "sample", id }), brush: (xs, ys) => set({ filter: JSON.stringify([...filters(), [x, ">=", xs[0]], [x, "<=", xs[1]], [y, ">=", ys[0]], [y, "<=", ys[1]]]) }) });
    this.box.replaceChildren(make("div", { className: "tabs pad" }, picker("x", "across", numbers, x, (v) => set({ x: v })), picker("y", "up", numbers, y, (v) => set({ y: v })), picker("group", "coloured by", ["", ...words], group, (v) => set({ group: v })),
      make("label", {}, make("input", { type: "checkbox", id: "diagonal", checked: get("diagonal") === "1", onchange: (event) => set({ diagonal: event.target.checked ? "1" : "" }) }), " same scale, with the diagonal")),
      plot, make("div", { className: "legend pad" }, ...classes.slice(0, 60).map((name, i) => make("span", {}, make("i", { style: `background:${classColour(i)}` }), name))));
    this.box.dataset.count = found.of;
    return found.of;
  }
}

export class Spread {
  constructor(box, about) { Object.assign(this, { box, about }); }
  async load() {
    const numbers = kinds(this.about, "number"), words = kinds(this.about, "text"), run = get("run");
    if (!numbers.length) { this.box.replaceChildren(make("p", { className: "hint", textContent: "There is no column of numbers." })); return null; }
    const y = numbers.includes(get("y")) ? get("y") : numbers[0], group = words.includes(get("group")) ? get("group") : words.includes("joint") ? "joint" : words[0] ?? "";
    const found = await source.columns(run, { names: group ? [y, group] : [y], filter: get("filter") }), of = group ? found.values[group].map((v) => String(v ?? "")) : found.ids.map(() => "all");
    const names = [...new Set(of)].sort((a, b) => a.localeCompare(b, undefined, { numeric: true })).slice(0, 60), rows = names.map((name) => {
      const values = found.values[y].filter((v, i) => of[i] === name && isNumber(v)).sort((a, b) => a - b), n = values.length, mean = values.reduce((sum, v) => sum + v, 0) / n;
      return { name, n, mean, low: n ? median(values, 0.25) : NaN, middle: n ? median(values, 0.5) : NaN, high: n ? median(values, 0.75) : NaN, most: n ? values[n - 1] : NaN };
    });
    const plot = dots({ x: of.map((name) => names.indexOf(name)), y: found.values[y].map((v, i) => (names.includes(of[i]) ? v : NaN)), ids: found.ids, names: [group || "all", y], ordinal: names, groups: of.map((name) => names.indexOf(name)), open: (id) => set({ view: "sample", id }) });
    const cell = (v) => make("td", { className: "number", textContent: isNumber(v) ? digits(Number(v.toPrecision(5))) : "" });
    this.box.replaceChildren(make("div", { className: "tabs pad" }, picker("y", "numbers", numbers, y, (v) => set({ y: v })), picker("group", "by", ["", ...words], group, (v) => set({ group: v }))), plot,
      make("div", { className: "scroll pad", tabIndex: 0 }, make("table", { className: "numbers" }, make("thead", {}, make("tr", {}, ...[group || "all", "samples", "mean", "quartile", "median", "quartile", "largest"].map((textContent) => make("th", { scope: "col", textContent })))),
        make("tbody", {}, ...rows.map((row) => make("tr", {}, make("th", { scope: "row", textContent: row.name || "(none)" }), cell(row.n), cell(row.mean), cell(row.low), cell(row.middle), cell(row.high), cell(row.most)))))));
    this.box.dataset.count = found.of;
    return found.of;
  }
}

export class Compare {
  constructor(box, about, runs) { Object.assign(this, { box, about, runs }); }
  async load() {
    const mine = kinds(this.about, "number"), run = get("run"), others = this.runs.map((one, i) => [i, one]).filter(([i, one]) => String(i) !== run && kinds(one, "number").some((name) => mine.includes(name)));
    if (!others.length) { this.box.replaceChildren(make("p", { className: "hint", textContent: "No other run here has a column of the same name: open two runs, loupe view one/ two/." })); return null; }
    const [other, theirs] = others.find(([i]) => String(i) === get("other")) ?? others.find(([, one]) => one.kind === this.about.kind) ?? others[0], shared = mine.filter((name) => kinds(theirs, "number").includes(name)), column = shared.includes(get("y")) ? get("y") : shared[0];
    const [one, two] = await Promise.all([source.columns(run, { names: [column], filter: get("filter") }), source.columns(other, { names: [column] })]), at = new Map(two.ids.map((id, i) => [id, two.values[column][i]]));
    const joined = one.ids.map((id, i) => [id, one.values[column][i], at.get(id)]).filter(([, a, b]) => isNumber(a) && isNumber(b)), apart = joined.map(([, a, b]) => b - a), mean = apart.reduce((sum, v) => sum + v, 0) / apart.length, [low, high] = interval(apart);
    const open = (id) => set({ view: "sample", id, with: id, other }), fixed = (v) => digits(Number(v.toPrecision(4)));
    const moved = joined.filter(([, a, b]) => a !== b).sort((p, q) => Math.abs(q[2] - q[1]) - Math.abs(p[2] - p[1])).slice(0, 20);
    this.box.dataset.count = joined.length;
    this.box.replaceChildren(make("div", { className: "tabs pad" }, make("label", {}, "with ", make("select", { id: "other", onchange: (event) => set({ other: event.target.value }) }, ...others.map(([i, one]) => make("option", { value: i, textContent: one.name, selected: i === other })))), picker("y", "numbers", shared, column, (v) => set({ y: v }))),
      make("p", { className: "pad", id: "verdict", textContent: joined.length ? `${joined.length} samples in both. ${theirs.name} less ${this.about.name}: ${fixed(mean)} on average${isNumber(low) ? `, 95 % interval ${fixed(low)} .. ${fixed(high)} (1000 resamples of the samples)` : ""}.` : "The two runs have no sample with a number in common." }),
      ...(joined.length ? [dots({ x: joined.map((one) => one[1]), y: joined.map((one) => one[2]), ids: joined.map((one) => one[0]), names: [this.about.name, theirs.name], diagonal: true, open })] : []),
      make("h3", { className: "pad", textContent: moved.length ? "Changed most" : joined.length ? "Nothing changed" : "" }), make("ol", { className: "pad" }, ...moved.map(([id, a, b]) => make("li", {}, make("button", { textContent: id, onclick: () => open(id) }), ` ${fixed(a)} \u2192 ${fixed(b)}`))));
    return joined.length;
  }
}
