// Square tiles, only those on screen; a run of a million is a tall empty box with a few dozen tiles in it.
import { digits, isNumber, make } from "./dom.js";
import { plane, sample } from "./held.js";
import { look } from "./look.js";
import { grid, paint } from "./paint.js";
import { source } from "./source.js";
import { get, set } from "./state.js";

const TILE = 176, TEXT = 40, PAGE = 100, TALLEST = 8_000_000;

export class Gallery {
  constructor(box, about) {
    Object.assign(this, { box, about, tiles: new Map(), pages: new Map(), count: 0 });
    this.space = make("div", { className: "space" });
    box.replaceChildren(this.space);
    box.onscroll = () => this.show();
    this.seen = new ResizeObserver(() => this.show());
    this.seen.observe(box);
  }
  close() { this.seen.disconnect(); this.box.onscroll = null; }
  async load() {
    this.asked = { filter: get("filter"), sort: get("sort"), down: get("down"), failed: get("view") === "failed" ? "1" : "" };
    this.pages.clear();
    const first = await this.page(0);
    this.count = first.count;
    this.box.dataset.count = this.count;
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
    this.show();
    return this.count;
  }
  page(number) {
    if (!this.pages.has(number)) {
      const asked = source.rows(get("run"), { ...this.asked, from: number * PAGE, count: PAGE });
      this.pages.set(number, asked);
      asked.catch(() => this.pages.delete(number));
    }
    return this.pages.get(number);
  }
  show() {
    const across = Math.max(1, Math.floor((this.box.clientWidth - 8) / (TILE + 8)));
    const side = Math.floor((this.box.clientWidth - 8) / across) - 8, tall = side + TEXT + 8;
    const rows = Math.ceil(this.count / across), whole = rows * tall, height = Math.min(whole, TALLEST);
    this.space.style.height = `${height}px`;
    // above the tallest box that browsers draw, a pixel of scrolling is many pixels of rows
    const room = Math.max(1, height - this.box.clientHeight), share = this.box.scrollTop / room;
    const top = whole > height ? share * (whole - this.box.clientHeight) : this.box.scrollTop;
    const first = Math.max(0, Math.floor(top / tall) - 1), last = Math.min(rows - 1, Math.ceil((top + this.box.clientHeight) / tall));
    const wanted = new Set();
    for (let i = first * across; i < Math.min(this.count, (last + 1) * across); i++) {
      wanted.add(i);
      const tile = this.tiles.get(i) ?? this.tile(i);
      tile.style.cssText = `left:${(i % across) * (side + 8) + 8}px;top:${Math.floor(i / across) * tall - top + this.box.scrollTop + 8}px;width:${side}px;height:${tall - 8}px`;
    }
    for (const [i, tile] of this.tiles) if (!wanted.has(i)) { tile.remove(); this.tiles.delete(i); }
  }
  tile(i) {
    const tile = make("button", { className: "tile", data: { at: i } });
    this.tiles.set(i, tile);
    this.space.append(tile);
    this.page(Math.floor(i / PAGE)).then(({ rows }) => this.fill(tile, rows[i % PAGE])).catch((error) => { tile.textContent = error.message; });
    return tile;
  }
  async fill(tile, row) {
    if (!row || !tile.isConnected) return;
    tile.dataset.id = row.id;
    tile.setAttribute("aria-label", row.failed ? `${row.id}, left out: ${row.failed}` : row.id);
    const name = make("span", { className: "name", textContent: row.id });
    if (row.failed) {
      tile.classList.add("failed");
      tile.replaceChildren(make("span", { className: "why", textContent: row.failed }), name);
      return;
    }
    const value = row[get("sort")], frame = make("span", { className: "frame" });
    const shown = get("sort") === "id" ? row.score ?? row["score 0"] : value;
    tile.replaceChildren(frame, name, make("span", { className: "value", textContent: digits(shown) }));
    tile.onclick = () => set({ view: "sample", id: row.id });
    const run = get("run"), about = await sample(run, row.id);
    if (!tile.isConnected) return;
    if (about.base) frame.append(make("img", { src: source.picture(run, row.id, 0, 256), alt: "", loading: "lazy" }));
    await overlay(frame, run, about, Number(get("plane")), Number(get("question")), 0, 128);
  }
  repaint() { for (const tile of this.tiles.values()) tile.querySelector("canvas")?.repaint?.(); }
}

// A canvas over a picture that can be painted again without asking anybody.
// given: a map that was made here, {one, values}, in the place of a stored one.
export async function overlay(frame, run, about, number, question, step, most = 512, given = null) {
  const one = given?.one ?? about.planes[number] ?? about.planes[0];
  if (!one) return null;
  one.run ??= run;
  const values = given?.values ?? (await plane(run, about.id, about.planes.indexOf(one)));
  const [, , h, w] = one.shape, [tall, wide] = about.base ? about.base.slice(1) : [h, w];
  const scale = Math.min(1, most / Math.max(tall, wide)) || 1;
  const canvas = make("canvas", { width: Math.max(1, Math.round(wide * scale)), height: Math.max(1, Math.round(tall * scale)), className: "over" });
  canvas.repaint = (now = canvas.now ?? step) => {
    canvas.now = now;
    const cells = grid(one, values, question, now);
    paint(canvas, cells, look(one, cells, values, () => canvas.repaint()));
  };
  canvas.repaint();
  frame.append(canvas);
  return { canvas, one, values };
}
