// One sample: the chosen map large, below it all layers and methods; the value under the pointer in all of them at once.
import { digits, make } from "./dom.js";
import { overlay } from "./gallery.js";
import { sample } from "./held.js";
import { grid } from "./paint.js";
import { source } from "./source.js";
import { get, set } from "./state.js";

export class Sample {
  constructor(box, runs) { Object.assign(this, { box, runs, painted: [] }); }
  close() { clearInterval(this.timer); }
  async load() {
    const ids = [get("id"), get("with")].filter(Boolean), run = get("run");
    const abouts = await Promise.all(ids.map((id) => sample(run, id)));
    this.painted = [];
    this.box.replaceChildren(...(await Promise.all(abouts.map((about) => this.one(run, about)))));
    this.box.classList.toggle("two", abouts.length > 1);
    return abouts;
  }
  async one(run, about) {
    const frame = Math.min(Number(get("frame")), (about.base?.[0] ?? 1) - 1), question = Math.min(Number(get("question")), Math.max(0, about.questions.length - 1));
    const section = make("section", { className: "one", data: { id: about.id } }, make("h2", { textContent: about.id }));
    if (about.error) section.append(make("p", { className: "error", textContent: about.error }));
    if (about.questions.length > 1) section.append(this.tabs(about, question));
    const large = await this.panel(run, about, Math.min(Number(get("plane")), Math.max(0, about.planes.length - 1)), question, frame, "large");
    section.append(large);
    if ((about.base?.[0] ?? 1) > 1) section.append(this.timeline(about, frame));
    if (about.planes.length > 1) {
      const matrix = make("div", { className: "matrix" });
      for (let i = 0; i < about.planes.length; i++) matrix.append(await this.panel(run, about, i, question, frame, "small"));
      section.append(matrix);
    }
    if (!about.planes.length) section.append(make("p", { textContent: "There is no picture of this kind of result; its record stands beside." }));
    return section;
  }
  tabs(about, question) {
    return make("div", { className: "tabs", role: "tablist", aria: { label: "questions" } }, ...about.questions.map((name, k) =>
      make("button", { role: "tab", aria: { selected: k === question }, textContent: `${name} ${digits(about.scores[k])}`, onclick: () => set({ question: k }) })));
  }
  async panel(run, about, number, question, frame, size) {
    const one = about.planes[number], holder = make("span", { className: "frame" });
    if (about.base) holder.append(make("img", { src: source.picture(run, about.id, frame), alt: `the picture of ${about.id}` }));
    const painted = one && (await overlay(holder, run, about, number, question, frame, size === "large" ? 1024 : 256));
    const said = make("output", { className: "readout" }), title = one ? `${one.method} at ${one.layer}` : "";
    const [tall, wide] = about.base ? about.base.slice(1) : one ? one.shape.slice(2) : [1, 1];
    const panel = make(size === "large" ? "figure" : "button", { className: `panel ${size}`, style: `--ratio:${wide}/${tall}` }, holder, make("figcaption", {}, title, " ", said));
    if (size === "small") {
      panel.setAttribute("aria-label", title);
      panel.setAttribute("aria-pressed", String(number === Number(get("plane"))));
      panel.onclick = () => set({ plane: number });
    }
    if (painted) {
      this.painted.push({ ...painted, holder, said, question, frame });
      holder.onpointermove = (event) => {
        const place = holder.getBoundingClientRect();
        this.read((event.clientX - place.left) / place.width, (event.clientY - place.top) / place.height);
      };
      holder.onpointerleave = () => this.painted.forEach(({ said }) => { said.textContent = ""; });
    }
    return panel;
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
  timeline(about, frame) {
    const last = about.base[0] - 1, label = make("output", { textContent: `frame ${frame + 1} of ${last + 1}` });
    const slider = make("input", { type: "range", min: 0, max: last, value: frame, aria: { label: "frame" }, oninput: () => set({ frame: slider.value }, { replace: true }) });
    const play = make("button", { textContent: this.timer ? "pause" : "play", id: "play", onclick: () => this.play(last) });
    return make("div", { className: "timeline" }, play, slider, label);
  }
  play(last) {
    if (this.timer) { clearInterval(this.timer); this.timer = 0; return set({ frame: get("frame") }); }
    this.timer = setInterval(() => set({ frame: (Number(get("frame")) + 1) % (last + 1) }, { replace: true }), 120);
  }
  repaint() { this.painted.forEach(({ canvas }) => canvas.repaint()); }
}
