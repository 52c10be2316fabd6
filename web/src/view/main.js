import { $, digits, make } from "./dom.js";
import { Gallery, overlay } from "./gallery.js";
import { Compare, Scatter, Spread } from "./numbers.js";
import * as save from "./save.js";
import { sample } from "./held.js";
import { names, usePalettes } from "./paint.js";
import { Sample } from "./sample.js";
import { Gone, source } from "./source.js";
import { filters, get, listen, set } from "./state.js";
import { Table } from "./table.js";

let library, view, drawn = "", turn = 0;
const own = (run) => library.runs[Number(run)] ?? library.runs[0];
const views = (about) => (about.kind === "points" || about.kind === "features" ? ["map"] : ["gallery", "table", "scatter", "spread", ...(library.runs.length > 1 ? ["compare"] : []), ...(about.failed ? ["failed"] : [])]);
const VIEWS = { table: Table, scatter: Scatter, spread: Spread, compare: Compare, sample: Sample };
const WORDS = { spread: "by group" };

function say(text, kind = "") { $("said").textContent = text; $("said").className = kind; }

function rail() {
  $("runs").replaceChildren(...library.runs.map((run, i) => make("button", {
    className: "run", textContent: run.name, title: (run.told ?? [run.error ?? ""]).join("\n"), aria: { current: String(i === Number(get("run"))) },
    onclick: () => set({ run: i, view: run.kind === "points" || run.kind === "features" ? "map" : "gallery", id: "", with: "", filter: "[]", sort: "id", down: "", plane: 0, question: 0, frame: 0 }) },
    make("small", { textContent: run.kind === "points" ? `map of ${run.count.toLocaleString("en")} points` : run.kind === "features" ? `${run.count.toLocaleString("en")} features` : run.error ?? `${run.count} ${run.kind}${run.failed ? `, ${run.failed} left out` : ""}` }))));
}

function bar(about) {
  const choices = views(about), now = get("view");
  $("views").replaceChildren(...choices.map((name) => make("button", { textContent: name === "failed" ? `left out (${about.failed})` : WORDS[name] ?? name, aria: { pressed: String(now === name) }, onclick: () => set({ view: name, id: "", with: "" }) })));
  $("chips").replaceChildren(...filters().map((one, i) => make("button", { className: "chip", textContent: `${one[0]} ${one[1]} ${digits(one[2])} \u00d7`, aria: { label: `remove filter ${one.join(" ")}` },
    onclick: () => set({ filter: JSON.stringify(filters().filter((_, j) => j !== i)) }) })));
  const columns = ["id", ...Object.keys(about.columns ?? {})];
  $("sort").replaceChildren(...columns.map((name) => make("option", { value: name, textContent: name, selected: name === get("sort") })));
  $("way").textContent = get("down") === "1" ? "\u2193" : "\u2191";
  $("column").replaceChildren(...columns.map((name) => make("option", { value: name, textContent: name })));
  $("tools").hidden = about.kind === "points" || about.kind === "features";
}

async function inspector() {
  const id = get("id"), box = $("about");
  $("paint").hidden = ["points", "features"].includes(own(get("run")).kind);
  if (get("view") !== "sample" || !id) { box.replaceChildren(...(own(get("run")).told ?? []).map((line) => make("p", { textContent: line.trim() })), ...(["points", "features"].includes(own(get("run")).kind) ? [] : [make("div", { className: "files" }, csv())]), ...again(own(get("run")).command)); return; }
  const about = await sample(get("run"), id), { id: _, failed, ...row } = about.record.row ?? {};
  const facts = Object.entries(row).map(([name, value]) => make("tr", {}, make("th", { textContent: name }), make("td", { className: typeof value, textContent: digits(value) })));
  const step = (way) => make("button", { textContent: way > 0 ? "next \u2192" : "\u2190 previous", onclick: () => move(way) });
  box.replaceChildren(make("p", { className: "steps" }, step(-1), step(1)), make("table", { className: "facts" }, ...facts),
    beside(), make("div", { className: "files" }, ...(document.querySelector(".one .large") ? [make("button", { textContent: "PNG", onclick: () => save.png(id) }), make("button", { textContent: "SVG", onclick: () => save.vector(id) })] : []),
      make("button", { textContent: "npz", title: "all arrays", onclick: () => save.arrays(get("run"), id) }), csv()),
    ...again(about.record.command),
    make("details", {}, make("summary", { textContent: "How it was made" }), make("pre", { tabIndex: 0, textContent: JSON.stringify(about.record, null, 1) })));
}

// A point of the map that was clicked: the sample, its heatmaps where a run has them, its neighbours in feature space.
async function pointed(frame, index, id) {
  const run = get("run"), box = $("about"), found = await source.neighbours(run, index, id);
  const runs = [];
  for (const [i, one] of library.runs.entries()) {
    if (!one.count || one.kind === "points" || one.kind === "features") continue;
    const there = await source.rows(i, { filter: JSON.stringify([["id", "=", id]]), count: 1 }).catch(() => ({ rows: [] }));
    if (there.rows.length) runs.push([i, one]);
  }
  if (get("run") !== run) return;
  const first = runs.length ? await sample(runs[0][0], id).catch(() => null) : null, shown = make("span", { className: "frame thumb", style: "aspect-ratio:1" });
  if (first?.base) shown.append(make("img", { src: source.picture(runs[0][0], id, 0, 256), alt: `the picture of ${id}` }));
  if (first?.planes?.length) await overlay(shown, runs[0][0], first, 0, 0, 0, 256);
  box.replaceChildren(make("h2", { textContent: id }), ...(shown.childNodes.length ? [shown] : []), ...runs.map(([i, one]) => make("button", { textContent: `open in ${one.name}`, onclick: () => set({ run: i, view: "sample", id, filter: "[]" }) })),
    make("table", { className: "facts" }, ...Object.entries(found.row).map(([name, value]) => make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { className: typeof value, textContent: value == null || value === "NaT" ? "missing" : String(value) })))),
    ...(found.features ? [make("table", { className: "facts" }, make("caption", { textContent: `Nearest in ${found.features}: the map keeps ${found.kept.filter(Boolean).length} of ${found.of.length}` }), ...found.ids.map((other, k) => make("tr", {}, make("th", { scope: "row", textContent: other }), make("td", { textContent: found.kept[k] ? "kept" : "lost", className: found.kept[k] ? "" : "error" }), make("td", { className: "number", textContent: digits(found.distance[k]) }))))]
      : [make("p", { className: "soft", textContent: source.embedded ? "Neighbours in feature space: open the map and its features with loupe view." : "Neighbours in feature space: open the features of the same samples beside the map, loupe view map.npz features.npz." })]));
  document.body.classList.add("sheet");
  frame.postMessage({ loupe: "neighbours", of: found.of, kept: found.kept }, "*");
}
const dark = () => matchMedia("(prefers-color-scheme: dark)").matches !== (document.documentElement.dataset.theme === "turned");
function beside() {
  const runs = library.runs.map((run, i) => [i, run]).filter(([, run]) => run.count);
  return make("form", { className: "beside", onsubmit: (event) => { event.preventDefault(); set({ with: $("with").value, other: $("whose")?.value ?? "" }); } },
    make("label", {}, "beside it ", make("input", { id: "with", value: get("with") || "", placeholder: "id of another sample" })),
    ...(runs.length > 1 ? [make("label", {}, "of ", make("select", { id: "whose" }, ...runs.map(([i, run]) => make("option", { value: i, textContent: run.name, selected: String(i) === (get("other") || get("run")) }))))] : []), make("button", { textContent: "show" }));
}
const csv = () => make("button", { textContent: "CSV", title: "the table, as it is filtered and sorted", onclick: () => save.table(get("run"), own(get("run")).name) });
function again(command) {
  if (!command) return [];
  return [make("div", { className: "again" }, make("strong", { textContent: "To make it again" }), make("pre", { id: "command", tabIndex: 0, textContent: command }), make("button", { textContent: "copy", onclick: (event) => navigator.clipboard?.writeText(command).then(() => { event.target.textContent = "copied"; }) }))];
}

async function move(way) {
  const asked = { filter: get("filter"), sort: get("sort"), down: get("down"), count: 500 };
  for (let from = 0; ; from += 500) {
    const { rows, count } = await source.rows(get("run"), { ...asked, from });
    const at = rows.findIndex((row) => row.id === get("id"));
    if (at >= 0) {
      const goal = from + at + way;
      if (goal < 0 || goal >= count) return;
      const found = rows[at + way] ?? (await source.rows(get("run"), { ...asked, from: goal, count: 1 })).rows[0];
      return set({ id: found.id });
    }
    if (from + 500 >= count) return;
  }
}

function controls() {
  $("opacity").value = get("opacity"); $("threshold").value = get("threshold"); for (const name of ["contour", "marks"]) $(name).checked = get(name) === "1";
  $("fade").value = get("fade");
  $("cmap").replaceChildren(...["auto", ...names()].map((name) => make("option", { value: name, textContent: name, selected: name === get("cmap") })));
  $("scale").value = get("scale");
}

async function draw() {
  // the place matters to feature maps, which then say how alike other places are
  const structure = JSON.stringify(["run", "view", "id", "with", "other", "plane", "question", "sort", "down", "filter", "by", "x", "y", "group", "diagonal"].map(get)) + (view?.channelled ? get("place") : "");
  controls();
  if (structure === drawn) { view?.step?.(); view?.repaint?.(); return; }
  drawn = structure;
  const mine = ++turn;
  const about = own(get("run")), now = get("view");
  rail(); bar(about);
  say("loading");
  try {
    const box = $("view");
    if (!(now === "sample" && view instanceof Sample)) { view?.close?.(); box.replaceChildren(); box.className = now; box.scrollTop = 0; delete box.dataset.count; }
    if (about.kind === "features") { view = null; say(`${about.name}: ${about.count.toLocaleString("en")} features. A click on a point of a map of the same samples shows its neighbours among them.`); await inspector(); window.loupe = { ready: true, turn }; return; }
    if (about.error) { say(about.error, "error"); window.loupe = { ready: true, turn, error: about.error }; return; }
    if (now === "map" || about.kind === "points") {
      view = null;
      box.replaceChildren(make("iframe", { title: `map of ${about.name}`, src: source.points(get("run")), onload: (event) => event.target.contentWindow.postMessage({ loupe: "theme", dark: dark() }, "*") }));
      say("");
    } else {
      if (!(now === "sample" && view instanceof Sample)) view = new (VIEWS[now] ?? Gallery)(box, about, library.runs);
      const found = await view.load();
      if (mine !== turn) return;
      say(typeof found === "number" ? (found ? `${found.toLocaleString("en")} samples` : filters().length ? "No sample passes these filters: remove one." : "Nothing here yet.") : "");
      view.repaint?.();
    }
    await inspector();
    window.loupe = { ready: true, turn };
  } catch (error) {
    if (mine === turn) say(error.message, "error");
    if (error instanceof Gone) $("view").replaceChildren();
    window.loupe = { ready: true, turn, error: error.message };
  }
}

const KEYS = {
  "/": () => $("value").focus(), o: () => set({ opacity: Number(get("opacity")) > 0 ? 0 : 0.5 }, { replace: true }),
  "[": () => set({ opacity: Math.max(0, Number(get("opacity")) - 0.1).toFixed(2) }, { replace: true }), "]": () => set({ opacity: Math.min(1, Number(get("opacity")) + 0.1).toFixed(2) }, { replace: true }),
  q: () => turned("question"), l: () => turned("plane"), m: () => turned("plane"), Escape: () => (get("view") === "sample" ? set({ view: "gallery", id: "", with: "" }) : $("sheet").close?.()),
  ArrowRight: () => get("view") === "sample" && move(1), ArrowLeft: () => get("view") === "sample" && move(-1), "?": () => $("keys").showModal(), " ": () => $("play")?.click(),
};
async function turned(name) {
  if (get("view") !== "sample") return set({ [name]: Number(get(name)) + 1 });
  const about = await sample(get("run"), get("id")), most = name === "question" ? about.questions.length : about.planes.length;
  set({ [name]: (Number(get(name)) + 1) % Math.max(1, most) });
}

async function begin() {
  try { library = await source.library(); } catch (error) { say(error.message, "error"); return; }
  usePalettes(library.palettes, library.classes);
  for (const name of ["opacity", "threshold"]) $(name).oninput = () => set({ [name]: $(name).value }, { replace: true });
  for (const name of ["cmap", "scale", "fade", "sort"]) $(name).onchange = () => set({ [name]: $(name).value }, { replace: name !== "sort" });
  $("contour").onchange = () => set({ contour: $("contour").checked ? "1" : "" }, { replace: true });
  $("marks").onchange = () => set({ marks: $("marks").checked ? "1" : "0" }, { replace: true });
  for (const [name, factor] of [["closer", 1.5], ["farther", 1 / 1.5]]) $(name).onclick = () => view?.zoomBy?.(factor);
  $("whole").onclick = () => set({ zoom: "", place: "" }, { replace: true });
  $("way").onclick = () => set({ down: get("down") === "1" ? "" : "1" });
  $("filters").onsubmit = (event) => {
    event.preventDefault();
    const text = $("value").value.trim(), number = text !== "" && Number.isFinite(Number(text)) && $("sign").value !== "~";
    if (text) set({ filter: JSON.stringify([...filters(), [$("column").value, $("sign").value, number ? Number(text) : text]]) });
    $("value").value = "";
  };
  $("theme").onclick = () => { document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches !== (document.documentElement.dataset.theme === "turned") ? "turned" : "";
    document.querySelector("iframe")?.contentWindow.postMessage({ loupe: "theme", dark: dark() }, "*");
  };
  addEventListener("message", ({ source: from, data }) => {
    if (from !== document.querySelector("iframe")?.contentWindow || data?.loupe !== "point") return;
    pointed(from, data.index, String(data.id)).catch((error) => say(error.message, "error"));
  });
  $("menu").onclick = () => document.body.classList.toggle("rail");
  $("more").onclick = () => document.body.classList.toggle("sheet");
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.key !== "Escape") return;
    if (event.key === " " && event.target.tagName === "BUTTON") return;
    const act = KEYS[event.key];
    if (act) { act(); if (event.key !== "Escape") event.preventDefault(); }
  });
  listen(draw);
  await draw();
}
begin();
