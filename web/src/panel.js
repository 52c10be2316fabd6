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
    this.legend();
    this.select([]);
  }

  get current() {
    return data.columns[this.column];
  }

  recolour(column) {
    this.column = column;
    this.hidden.clear();
    this.plot.recolour(this.current);
    this.plot.filter(null);
    this.legend();
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
        element("div", { className: "ends" }, String(Number(column.low.toPrecision(4))), " … ", String(Number(column.high.toPrecision(4)))),
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
    if (!this.hidden.size) return this.plot.filter(null);
    const { values } = this.current;
    const shown = [];
    for (let i = 0; i < data.count; i++) if (!this.hidden.has(values[i])) shown.push(i);
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
