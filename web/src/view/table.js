// Columns by kind, a histogram in each head that filters by brushing, rows only as far as they are on screen.
import { digits, make } from "./dom.js";
import { source } from "./source.js";
import { filters, get, set } from "./state.js";

const ROW = 28, PAGE = 100;

export class Table {
  constructor(box, about) { Object.assign(this, { box, about, pages: new Map() }); }
  close() { this.box.onscroll = null; }
  async load() {
    const names = ["id", ...Object.keys(this.about.columns)], run = get("run");
    this.asked = { filter: get("filter"), sort: get("sort"), down: get("down") };
    this.pages.clear();
    const { count } = await this.page(0);
    const head = make("tr", {}, ...names.map((name) => this.head(run, name)));
    this.body = make("tbody");
    this.space = make("div", { className: "tall", style: `height:${Math.min(count * ROW, 8e6)}px` });
    this.table = make("table", {}, make("thead", {}, head), this.body);
    this.box.replaceChildren(make("div", { className: "rows" }, this.table, this.space));
    Object.assign(this, { names, count });
    this.box.dataset.count = count;
    this.box.onscroll = () => this.show();
    await this.show();
    return count;
  }
  page(number) {
    if (!this.pages.has(number)) this.pages.set(number, source.rows(get("run"), { ...this.asked, from: number * PAGE, count: PAGE }));
    return this.pages.get(number);
  }
  async show() {
    const share = Math.min(1, this.box.scrollTop / Math.max(1, this.box.scrollHeight - this.box.clientHeight));
    const fit = Math.ceil(this.box.clientHeight / ROW), first = Math.floor(share * Math.max(0, this.count - fit + 3));
    const begin = Math.floor(first / PAGE), pages = await Promise.all([this.page(begin), this.page(begin + 1)]);
    const rows = pages.flatMap((page) => page.rows).slice(first - begin * PAGE, first - begin * PAGE + fit);
    this.body.replaceChildren(...rows.map((row) => make("tr", { tabIndex: 0, data: { id: row.id },
      onclick: () => set({ view: "sample", id: row.id }), onkeydown: (event) => event.key === "Enter" && set({ view: "sample", id: row.id }) },
      ...this.names.map((name) => make("td", { className: typeof row[name], textContent: digits(typeof row[name] === "object" && row[name] ? JSON.stringify(row[name]) : row[name]) })))));
  }
  head(run, name) {
    const sorted = get("sort") === name, down = get("down") === "1";
    const button = make("button", { textContent: name + (sorted ? (down ? " \u2193" : " \u2191") : ""), onclick: () => set({ sort: name, down: sorted && !down ? "1" : "" }) });
    const cell = make("th", { aria: { sort: sorted ? (down ? "descending" : "ascending") : "none" } }, button);
    if (name !== "id") source.histogram(run, { column: name, filter: get("filter") }).then((found) => cell.append(spark(name, found))).catch(() => {});
    return cell;
  }
}

function spark(name, found) {
  const most = Math.max(1, ...found.counts), bars = make("span", { className: "spark", aria: { label: `distribution of ${name}` }, role: "img" });
  found.counts.forEach((count, i) => {
    const span = found.kind === "number" ? (found.high - found.low) / found.counts.length : 0, from = found.low + i * span;
    const title = found.kind === "number" ? `${digits(from)} to ${digits(from + span)}: ${count}` : `${found.names[i]}: ${count}`;
    bars.append(make("i", { title, style: `height:${Math.round((24 * count) / most)}px`, onclick: () => {
      const add = found.kind === "number" ? [[name, ">=", from], [name, i === found.counts.length - 1 ? "<=" : "<", i === found.counts.length - 1 ? found.high : from + span]] : [[name, "=", found.names[i]]];
      set({ filter: JSON.stringify([...filters(), ...add]) });
    } }));
  });
  return bars;
}
