// One sample, or two side by side: the chosen map large, below it all layers and methods, what other methods say at a place,
// numbers and curves; the value under the pointer in all of them at once, pan and zoom shared.
import { digits, isNumber, make } from "./dom.js";
import { overlay } from "./gallery.js";
import { plane, sample } from "./held.js";
import { classColour, fine, grid } from "./paint.js";
import { lines, matrix, svg } from "./plot.js";
import { source } from "./source.js";
import { get, set } from "./state.js";

const MOST_PANELS = 48, STRIP = 16;
const cut = (text, most = 60) => (text.length > most ? text.slice(0, most - 1) + "\u2026" : text);

export class Sample {
  constructor(box) { Object.assign(this, { box, painted: [], stepped: [] }); }
  close() { clearInterval(this.timer); this.timer = 0; this.box.style.cssText = ""; }
  async load() {
    const run = get("run"), asked = [[run, get("id")], [get("other") || run, get("with")]].filter(([, id]) => id);
    const abouts = await Promise.all(asked.map(([run, id]) => sample(run, id)));
    this.painted = [];
    this.stepped = [];
    const sections = [];
    for (const [i, about] of abouts.entries()) sections.push(await this.one(asked[i][0], about, abouts[1 - i]));
    const apart = abouts.length > 1 ? await this.apart(asked, abouts) : null;
    this.box.replaceChildren(...sections, ...(apart ? [apart] : []));
    this.box.classList.toggle("two", abouts.length > 1);
    this.channelled = abouts.some((about) => about.channels);
    this.place();
    this.zoom();
    return abouts;
  }
  async one(run, about, other) {
    const base = about.base?.[0] ?? 1, last = Math.max(base, ...about.planes.map((one) => one.shape[1])) - 1;
    const frame = Math.min(Number(get("frame")), last), question = about.focus ?? Math.min(Number(get("question")), Math.max(0, about.questions.length - 1));
    const number = Math.min(Number(get("plane")), Math.max(0, about.planes.length - 1));
    const section = make("section", { className: "one", data: { id: about.id, run } }, make("h2", { textContent: about.id }));
    if (about.error) section.append(make("p", { className: "error", textContent: about.error }));
    if (about.questions.length > 1 && !about.channels) section.append(this.tabs(about, question));
    if (about.base || about.planes.length) {
      const pair = make("div", { className: "pair" }, await this.panel(run, about, number, question, frame, "large"));
      if (about.answer) pair.append(this.answer(run, about, frame));
      section.append(pair);
    }
    if (last > 0) section.append(this.timeline(about, frame, last), ...(about.planes.length ? [await this.strip(run, about, question, last)] : []));
    section.append(make("div", { className: "at", aria: { live: "polite" } }));
    if (about.channels) section.append(await this.channels(run, about, number, frame, other));
    else if (about.planes.length > 1) section.append(await this.matrix(run, about, question, frame));
    if (about.numbers) section.append(this.numbers(about, question, number));
    if (about.curves) section.append(this.curves(about, question, number));
    if (about["by joint"]) section.append(this.joints(about, question));
    for (const plot of about.plots ?? []) section.append(lines(plot.title, plot));
    for (const one of about.matrices ?? []) section.append(matrix(one));
    if (about.rows?.length) section.append(this.rows(about.rows));
    if (about.census) section.append(census(about.census));
    if (about.nearest?.length) section.append(this.nearest(about));
    if (about.drawing && (!source.embedded || source.drawing(run, about.id).length > 30))
      section.append(make("img", { className: "still", src: source.drawing(run, about.id), alt: `the picture of ${about.id}` }));
    else if (!about.planes.length && !about.base && !about.matrices && !about.plots) section.append(make("p", { textContent: "There is no picture of this kind of result; its record stands beside." }));
    return section;
  }
  tabs(about, question) {
    return make("div", { className: "tabs", role: "group", aria: { label: "questions" } }, ...about.questions.map((name, k) =>
      make("button", { aria: { pressed: String(k === question) }, title: name, textContent: `${cut(name)} ${digits(about.scores[k])}`, onclick: () => (about.joint ? set({ id: about.id.slice(0, -about.joint.length) + name }) : set({ question: k })) })));
  }
  // One picture with one map. Its canvas, picture and marks are turned together when the frame changes.
  async panel(run, about, number, question, frame, size, { given = null, title = null, act = null } = {}) {
    const one = given?.one ?? about.planes[number], holder = make("span", { className: "frame" });
    const bases = about.base?.[0] ?? 0, at = (step) => Math.min(step, Math.max(0, bases - 1));
    if (about.base) {
      const picture = make("img", { src: source.picture(run, about.id, at(frame), size === "large" ? 0 : 320), alt: size === "large" ? `the picture of ${about.id}` : "", draggable: false });
      holder.append(picture);
      if (bases > 1 && size !== "strip") this.stepped.push((step) => { picture.src = source.picture(run, about.id, at(step), size === "large" ? 0 : 320); });
    }
    const painted = one && (await overlay(holder, run, about, number, question, frame, size === "large" ? 1024 : 256, given));
    const marks = size === "large" ? this.marks(about, question, frame) : null;
    if (marks) { holder.append(marks); this.stepped.push((step) => marks.step(step)); }
    holder.append(make("i", { className: "pin", hidden: true }));
    const said = make("output", { className: "readout" }), words = title ?? (one ? `${one.method} at ${one.layer}` : "");
    const [tall, wide] = about.base ? about.base.slice(1) : one ? one.shape.slice(2) : [1, 1];
    const panel = make(size === "large" ? "figure" : "button", { className: `panel ${size === "strip" ? "small strip" : size}`, style: `--ratio:${wide}/${tall}` }, holder, make("figcaption", {}, make("b", { textContent: words }), " ", said));
    if (size !== "large") {
      panel.setAttribute("aria-label", words);
      if (!act) panel.setAttribute("aria-pressed", String(number === Number(get("plane"))));
      panel.onclick = act ?? (() => set({ plane: number }));
    } else this.handle(holder);
    if (painted) {
      const entry = { ...painted, holder, said, question, frame, run, about, number, size };
      this.painted.push(entry);
      if (size !== "strip") this.stepped.push((step) => { entry.frame = step; painted.canvas.repaint(step); });
      holder.onpointermove = (event) => this.read(...this.where(painted.canvas, event));
      holder.onpointerleave = () => this.painted.forEach(({ said }) => { said.textContent = ""; });
    }
    return panel;
  }
  where(canvas, event) {
    const place = canvas.getBoundingClientRect();
    return [(event.clientX - place.left) / place.width, (event.clientY - place.top) / place.height];
  }
  // Wheel and drag zoom and pan all panels alike; a click pins a place, two clicks show all again.
  handle(holder) {
    let from = null, moved = 0;
    const now = () => { const [z, x, y] = (get("zoom") || "1,0,0").split(",").map(Number); return { z: z || 1, x: x || 0, y: y || 0 }; };
    const keep = ({ z, x, y }) => {
      z = Math.max(1, Math.min(40, z));
      const most = (z - 1) / z;
      const put = [z, Math.max(0, Math.min(most, x)), Math.max(0, Math.min(most, y))].map((v) => Number(v.toFixed(4)));
      set({ zoom: z === 1 ? "" : put.join(",") }, { replace: true });
    };
    this.zoomBy = (factor) => { const { z, x, y } = now(); keep({ z: z * factor, x: x + 0.5 / z - 0.5 / (z * factor), y: y + 0.5 / z - 0.5 / (z * factor) }); };
    holder.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { z, x, y } = now(), box = holder.getBoundingClientRect(), u = (event.clientX - box.left) / box.width, v = (event.clientY - box.top) / box.height;
      const next = Math.max(1, Math.min(40, z * Math.exp(-event.deltaY / 300)));
      keep({ z: next, x: x + u / z - u / next, y: y + v / z - v / next });
    }, { passive: false });
    holder.onpointerdown = (event) => { from = { at: [event.clientX, event.clientY], ...now() }; moved = 0; holder.setPointerCapture(event.pointerId); };
    holder.addEventListener("pointermove", (event) => {
      if (!from) return;
      const box = holder.getBoundingClientRect(), dx = event.clientX - from.at[0], dy = event.clientY - from.at[1];
      moved = Math.max(moved, Math.hypot(dx, dy));
      if (moved > 4 && from.z > 1) keep({ z: from.z, x: from.x - dx / box.width / from.z, y: from.y - dy / box.height / from.z });
    });
    holder.onpointerup = (event) => {
      if (from && moved <= 4) {
        const target = holder.querySelector("canvas, img"), [x, y] = this.where(target, event);
        if (x >= 0 && y >= 0 && x <= 1 && y <= 1) set({ place: `${x.toFixed(4)},${y.toFixed(4)}` }, { replace: true });
      }
      from = null;
    };
    holder.ondblclick = () => set({ zoom: "", place: "" }, { replace: true });
  }
  zoom() {
    const [z, x, y] = (get("zoom") || "1,0,0").split(",").map(Number);
    this.box.style.setProperty("--z", z || 1); this.box.style.setProperty("--x", `${-100 * (x || 0) * (z || 1)}%`); this.box.style.setProperty("--y", `${-100 * (y || 0) * (z || 1)}%`);
  }
  // What every method says at the pinned place.
  place() {
    const [x, y] = get("place").split(",").map(Number), on = get("place") !== "" && isNumber(x) && isNumber(y);
    for (const pin of this.box.querySelectorAll(".pin")) {
      pin.hidden = !on;
      if (on) pin.style.cssText = `--px:${x};--py:${y}`;
    }
    for (const section of this.box.querySelectorAll(".one")) {
      const box = section.querySelector(".at"), seen = new Set();
      if (!box) continue;
      if (!on) { box.replaceChildren(); continue; }
      const rows = this.painted.filter(({ holder, one }) => section.contains(holder) && !seen.has(one) && seen.add(one)).map((entry) => {
        const { one, values, question, frame } = entry, cells = grid(one, values, question, frame);
        const column = Math.min(cells.w - 1, Math.floor(x * cells.w)), row = Math.min(cells.h - 1, Math.floor(y * cells.h)), value = cells.values[row * cells.w + column];
        let top = 0, below = 0, count = 0;
        for (const other of cells.values) if (Number.isFinite(other)) { top = Math.max(top, Math.abs(other)); below += other < value; count++; }
        return make("tr", {}, make("th", { scope: "row", textContent: `${one.method} at ${one.layer}` }), make("td", { className: "number", textContent: digits(value) }),
          make("td", { className: "number", textContent: top > 0 && isNumber(value) ? `${Math.round((100 * value) / top)} %` : "" }),
          make("td", { className: "number", textContent: isNumber(value) && count > 1 ? `${Math.round((100 * below) / (count - 1))} %` : "" }));
      });
      if (rows.length) box.replaceChildren(make("table", { className: "facts" }, make("caption", { textContent: `At ${Math.round(100 * x)} % from the left, ${Math.round(100 * y)} % from the top` }),
        make("thead", {}, make("tr", {}, ...["map", "value", "of the largest", "of cells lie below"].map((textContent) => make("th", { scope: "col", textContent })))), make("tbody", {}, ...rows)));
    }
  }
  read(x, y) {
    for (const { one, values, said, question, frame } of this.painted) {
      const cells = grid(one, values, question, frame);
      const column = Math.min(cells.w - 1, Math.floor(x * cells.w)), row = Math.min(cells.h - 1, Math.floor(y * cells.h));
      if (column < 0 || row < 0) continue;
      const value = cells.values[row * cells.w + column];
      let top = 0;
      for (const other of cells.values) top = Math.max(top, Math.abs(other));
      said.textContent = Number.isFinite(value) ? `${digits(value)} at row ${row}, column ${column}${top > 0 ? ` (${Math.round((100 * value) / top)} % of the largest)` : ""}` : `missing at row ${row}, column ${column}`;
    }
  }
  // Boxes, joints and limbs over the picture.
  marks(about, question, frame, joints = about.joints, size = about.base) {
    const boxes = about.boxes?.filter((box) => box && box[2] > box[0]);
    if (!size || (!boxes?.length && !joints)) return null;
    const [, tall, wide] = size, drawn = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, class: "marks", "aria-hidden": "true" }), thin = Math.max(wide, tall) / 200;
    drawn.step = (step) => {
      drawn.replaceChildren();
      (about.boxes ?? []).forEach((box, k) => {
        if (!box || !(box[2] > box[0])) return;
        drawn.append(svg("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], fill: "none", stroke: k === question ? "#fff" : "#fff8", "stroke-width": thin * (k === question ? 2 : 1) }, svg("title", {}, about.questions[k] ?? "")));
      });
      Object.entries(joints?.sets ?? {}).forEach(([name, all], s) => {
        const places = all[Math.min(step, all.length - 1)] ?? [], colour = name === "true" ? "#fff" : classColour(s + 1), there = (p) => p && isNumber(p[0]) && isNumber(p[1]);
        for (const [a, b] of joints.limbs) if (there(places[a]) && there(places[b])) drawn.append(svg("line", { x1: places[a][0], y1: places[a][1], x2: places[b][0], y2: places[b][1], stroke: colour, "stroke-width": thin, opacity: 0.7 }));
        places.forEach((p, j) => there(p) && drawn.append(svg("circle", { cx: p[0], cy: p[1], r: thin * (joints.names[j] === about.joint ? 4 : 2), fill: colour, stroke: "#000", "stroke-width": thin / 2 }, svg("title", {}, `${joints.names[j] ?? j} (${name})`))));
      });
    };
    drawn.step(frame);
    return drawn;
  }
  answer(run, about, frame) {
    const count = about.answer[0], at = (step) => Math.min(step, count - 1), holder = make("span", { className: "frame" });
    const picture = make("img", { src: source.picture(run, about.id, at(frame), 0, 1), alt: `the answer: ${about.answered}`, draggable: false });
    holder.append(picture);
    const marks = about["answer joints"] ? this.marks({ questions: [] }, 0, frame, about["answer joints"], about.answer) : null;
    if (marks) holder.append(marks);
    this.stepped.push((step) => { picture.src = source.picture(run, about.id, at(step), 0, 1); marks?.step(step); });
    return make("figure", { className: "panel large answer", style: `--ratio:${about.answer[2]}/${about.answer[1]}` }, holder, make("figcaption", {}, make("b", { textContent: `answer: ${about.answered}` })));
  }
  nearest(about) {
    const most = Math.max(...about.nearest.map(([, far]) => far)) || 1;
    return make("table", { className: "facts nearest" }, make("caption", { textContent: "Gallery, the nearest first" }), make("tbody", {}, ...about.nearest.slice(0, 12).map(([name, far]) =>
      make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { className: "number", textContent: digits(far) }), make("td", { className: "bar" }, make("i", { style: `width:${(100 * far) / most}%` }))))));
  }
  timeline(about, frame, last) {
    const label = make("output", { textContent: `frame ${frame + 1} of ${last + 1}` });
    const slider = make("input", { type: "range", min: 0, max: last, value: frame, aria: { label: "frame" }, oninput: () => set({ frame: slider.value }, { replace: true }) });
    const play = make("button", { textContent: this.timer ? "pause" : "play", id: "play", onclick: () => this.play(last, play) });
    this.stepped.push((step) => { slider.value = step; label.textContent = `frame ${Math.min(step, last) + 1} of ${last + 1}`; });
    return make("div", { className: "timeline" }, play, slider, label);
  }
  play(last, button) {
    if (this.timer) { clearInterval(this.timer); this.timer = 0; button.textContent = "play"; return; }
    button.textContent = "pause";
    this.timer = setInterval(() => set({ frame: (Number(get("frame")) + 1) % (last + 1) }, { replace: true }), 120);
  }
  step() { const frame = Number(get("frame")); this.stepped.forEach((act) => act(frame)); this.place(); }
  // Frames across, layers down, at one glance.
  async strip(run, about, question, last) {
    const count = Math.min(STRIP, last + 1), box = make("div", { className: "scroll", tabIndex: 0, role: "group", aria: { label: "frames by layers" } });
    for (let number = 0; number < Math.min(about.planes.length, 8); number++) {
      const row = make("div", { className: "frames" });
      for (let i = 0; i < count; i++) {
        const frame = Math.round((i * last) / Math.max(1, count - 1));
        row.append(await this.panel(run, about, number, question, frame, "strip", { title: `${about.planes[number].layer}, frame ${frame + 1}`, act: () => set({ frame, plane: number }, { replace: true }) }));
      }
      box.append(row);
    }
    return box;
  }
  // Layers down, methods across.
  async matrix(run, about, question, frame) {
    const methods = [...new Set(about.planes.map((one) => one.method))], layers = [...new Set(about.planes.map((one) => one.layer))];
    const whole = methods.length > 1 && layers.length > 1 && methods.length * layers.length === about.planes.length;
    const order = about.planes.map((one, i) => i);
    if (whole) order.sort((a, b) => layers.indexOf(about.planes[a].layer) - layers.indexOf(about.planes[b].layer) || methods.indexOf(about.planes[a].method) - methods.indexOf(about.planes[b].method));
    const box = make("div", { className: "matrix", role: "group", aria: { label: "layers and methods" }, style: whole && methods.length <= 6 ? `grid-template-columns:repeat(${methods.length}, minmax(72px, 1fr))` : "" });
    for (const i of order) box.append(await this.panel(run, about, i, question, frame, "small"));
    return box;
  }
  numbers(about, question, number) {
    const mine = about.planes[number] ? `${about.planes[number].method}/${about.planes[number].layer}` : "", maps = [...new Set(Object.values(about.numbers).flatMap((one) => Object.keys(one.value)))];
    const arrow = { high: "\u2191", low: "\u2193" };
    const head = make("tr", {}, make("th", { scope: "col", textContent: "map" }), ...Object.entries(about.numbers).map(([name, one]) => make("th", { scope: "col", title: { high: "higher is better", low: "lower is better" }[one.better] ?? "", textContent: `${name} ${arrow[one.better] ?? ""}` })));
    const row = (map) => make("tr", { className: map === mine ? "mine" : about.controls.includes(map) ? "control" : "" }, make("th", { scope: "row", textContent: about.controls.includes(map) ? `chance: ${map}` : map }),
      ...Object.values(about.numbers).map((one) => { const value = one.value[map]?.[question]; return make("td", { className: "number", textContent: isNumber(value) ? digits(Number(value.toPrecision(4))) : "" }); }));
    const level = Object.values(about.numbers).some((one) => one.chance) ? [make("tr", { className: "control" }, make("th", { scope: "row", textContent: "chance: expected" }), ...Object.values(about.numbers).map((one) => make("td", { className: "number", textContent: isNumber(one.chance?.[question]) ? digits(Number(one.chance[question].toPrecision(4))) : "" })))] : [];
    const sorted = [...maps].sort((a, b) => about.controls.includes(a) - about.controls.includes(b));
    return make("div", { className: "scroll", tabIndex: 0 }, make("table", { className: "numbers" }, make("caption", { textContent: "How far these maps can be trusted" }), make("thead", {}, head), make("tbody", {}, ...sorted.map(row), ...level)));
  }
  // Curves of what is left of the score; where the pointer is, the large picture shows what is taken away there.
  curves(about, question, number) {
    const mine = about.planes[number] ? `${about.planes[number].method}/${about.planes[number].layer}` : "";
    return make("div", { className: "charts" }, ...Object.entries(about.curves).map(([name, one]) => lines(name, {
      x: "taken away", y: "", at: (share) => this.removed(about, mine, name, share),
      lines: Object.entries(one.value).map(([map, values]) => ({ name: map, x: one.at, y: values[question] ?? [], dashed: about.controls.includes(map), strong: map === mine })),
    })));
  }
  removed(about, mine, name, share) {
    const entry = this.painted.find((one) => one.about === about && one.size === "large");
    if (!entry) return;
    if (share === null || !about.base) return entry.canvas.repaint(entry.frame);
    const { canvas } = entry, values = fine(grid(entry.one, entry.values, entry.question, entry.frame), canvas.width, canvas.height);
    const order = Float32Array.from(values).sort(), least = /lerf|insertion/.test(name); // these take the least first
    const at = Math.min(order.length - 1, Math.max(0, Math.round((least ? share : 1 - share) * order.length))), cutoff = order[at];
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
    values.forEach((value, i) => {
      const taken = share >= 1 ? true : share <= 0 ? false : least ? value < cutoff : value >= cutoff;
      if (taken) image.data.set([128, 128, 128, 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
  }
  joints(about, question) {
    const names = about.joints.names, columns = Object.entries(about["by joint"]);
    return make("div", { className: "scroll", tabIndex: 0 }, make("table", { className: "numbers" }, make("caption", { textContent: "By joint" }), make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "joint" }), ...columns.map(([textContent]) => make("th", { scope: "col", textContent })))),
      make("tbody", {}, ...names.map((name, j) => make("tr", { className: name === (about.joint ?? about.questions[question]) ? "mine" : "" }, make("th", { scope: "row" }, name),
        ...columns.map(([, values]) => make("td", { className: "number", textContent: isNumber(values[j]) ? digits(Number(values[j].toPrecision(5))) : "" })))))));
  }
  rows(rows) {
    const names = Object.keys(rows[0]);
    return make("div", { className: "scroll", tabIndex: 0 }, make("table", { className: "numbers" }, make("thead", {}, make("tr", {}, ...names.map((textContent) => make("th", { scope: "col", textContent })))), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...names.map((name) => make("td", { textContent: digits(row[name]) })))))));
  }
  // Feature maps: channels sorted by a statistic, and how alike the clicked patch is to all others.
  async channels(run, about, number, frame, other) {
    const box = make("div", {}), one = about.planes[number];
    if (!one) return box;
    const values = await plane(run, about.id, number), [count, t, h, w] = one.shape, size = t * h * w, by = get("by");
    const order = Array.from({ length: count }, (_, i) => i), figures = order.map((i) => statistics(values.subarray(i * size, (i + 1) * size)));
    if (by !== "number") order.sort((a, b) => figures[b][by] - figures[a][by] || a - b);
    box.append(make("div", { className: "tabs" }, make("label", {}, "point ", make("select", { aria: { label: "point" }, onchange: (event) => set({ plane: event.target.value, question: 0 }) }, ...about.planes.map((p, i) => make("option", { value: i, selected: i === number, textContent: about.planes.some((q) => q.method !== p.method) ? `${p.layer}: ${p.method}` : p.layer })))),
      make("label", {}, "channels by ", make("select", { id: "by", onchange: (event) => set({ by: event.target.value }) }, ...STATISTICS.map((name) => make("option", { value: name, selected: name === by, textContent: name })))),
      make("span", { className: "soft", textContent: `${count} channels of ${h} x ${w}${count > MOST_PANELS ? `, ${MOST_PANELS} shown` : ""}` })));
    const grids = make("div", { className: "matrix" });
    for (const k of order.slice(0, MOST_PANELS)) {
      const panel = await this.panel(run, about, number, k, frame, "small", { title: `channel ${k}${by === "number" ? "" : `: ${by} ${digits(Number(figures[k][by].toPrecision(4)))}`}`, act: () => set({ question: k }) });
      panel.setAttribute("aria-pressed", String(k === Number(get("question"))));
      panel.dataset.channel = k;
      grids.append(panel);
    }
    const [x, y] = get("place").split(",").map(Number);
    if (get("place") && isNumber(x)) {
      const step = t === 1 ? 0 : Math.min(frame, t - 1), at = step * h * w + Math.min(h - 1, Math.floor(y * h)) * w + Math.min(w - 1, Math.floor(x * w));
      const mine = run === get("run") && about.id === get("id") ? { values, at } : await patch(at, number);
      const alike = similarity(values, mine, count, size), given = { one: { method: "cosine", layer: one.layer, signed: true, shape: [1, t, h, w] }, values: alike };
      box.append(make("div", { className: "alike" }, await this.panel(run, about, number, 0, frame, "large", { given, title: "cosine similarity to the clicked patch" })));
    }
    box.append(grids);
    return box;
  }
  // The same map of both samples, one less the other.
  async apart(asked, abouts) {
    const number = Number(get("plane")), [a, b] = abouts.map((about) => about.planes[Math.min(number, about.planes.length - 1)]);
    if (!a || !b || a.shape.join() !== b.shape.join() || a.method !== b.method || a.layer !== b.layer) return null;
    const [one, two] = await Promise.all(asked.map(([run, id], i) => plane(run, id, Math.min(number, abouts[i].planes.length - 1))));
    const given = { one: { method: "b - a", layer: a.layer, signed: true, shape: a.shape }, values: Float32Array.from(two, (value, i) => value - one[i]) };
    const question = Math.min(Number(get("question")), a.shape[0] - 1);
    return make("section", { className: "difference" }, make("h3", { textContent: `second less first: ${a.method} at ${a.layer}` }), await this.panel(asked[0][0], abouts[0], number, question, Number(get("frame")), "large", { given, title: "second less first" }));
  }
  repaint() { this.painted.forEach(({ canvas, frame }) => canvas.repaint(frame)); this.zoom(); this.box.classList.toggle("unmarked", get("marks") !== "1"); }
}

const STATISTICS = ["number", "mean", "max", "std", "share of zeros", "magnitude"];
function statistics(values) {
  let sum = 0, square = 0, max = -Infinity, zeros = 0, magnitude = 0;
  for (const v of values) { sum += v; square += v * v; magnitude += Math.abs(v); max = Math.max(max, v); zeros += v === 0; }
  const n = values.length, mean = sum / n;
  return { number: 0, mean, max, std: Math.sqrt(Math.max(0, square / n - mean * mean)), "share of zeros": zeros / n, magnitude: magnitude / n };
}
// The feature at a place of the first sample, for the second beside it.
async function patch(at, number) { return { values: await plane(get("run"), get("id"), number), at }; }
export function similarity(values, { values: from, at }, count, size) {
  const theirs = from.length / count, out = new Float32Array(size), norm = new Float64Array(size);
  let own = 0;
  for (let c = 0; c < count; c++) {
    const v = from[c * theirs + at];
    own += v * v;
    for (let i = 0; i < size; i++) { const other = values[c * size + i]; out[i] += v * other; norm[i] += other * other; }
  }
  for (let i = 0; i < size; i++) out[i] = own > 0 && norm[i] > 0 ? out[i] / Math.sqrt(own * norm[i]) : NaN;
  return out;
}

function census(summary) {
  const box = make("div", { className: "census" });
  for (const [name, value] of Object.entries(summary)) {
    const list = Array.isArray(value) ? value : value && typeof value === "object" ? Object.entries(value) : null;
    if (!list?.length) continue;
    box.append(make("details", {}, make("summary", { textContent: `${name} (${list.length})` }), make("ul", {}, ...list.slice(0, 200).map((one) => make("li", { textContent: typeof one === "string" ? one : JSON.stringify(one) })))));
  }
  return box;
}
