// One selection, in the address: every view draws it and changes it; back and forward work, a link reproduces the screen.
const DEFAULTS = { run: "0", view: "gallery", id: "", with: "", plane: "0", question: "0", frame: "0", sort: "id", down: "", filter: "[]",
  other: "", place: "", zoom: "", marks: "1", by: "number", x: "", y: "", group: "", diagonal: "",
  opacity: "0.5", cmap: "auto", scale: "map", threshold: "0", fade: "", contour: "" };
const listeners = new Set();
// In a frame of a notebook there is no address of its own; the selection is kept here then.
let kept = null;
const now = () => new URLSearchParams(kept ?? location.hash.slice(1));

export const get = (name) => now().get(name) ?? DEFAULTS[name];
export const filters = () => { try { const found = JSON.parse(get("filter")); return Array.isArray(found) ? found : []; } catch { return []; } };

export function set(changes, { replace = false } = {}) {
  const next = now(), before = String(next);
  for (const [name, value] of Object.entries(changes))
    String(value) === DEFAULTS[name] ? next.delete(name) : next.set(name, value);
  if (String(next) === before) return;
  try { history[replace ? "replaceState" : "pushState"](null, "", "#" + next); } catch { kept = String(next); }
  if (parent !== window) parent.postMessage({ loupe: "selection", selection: Object.fromEntries(next) }, "*");
  tell();
}

export const listen = (act) => listeners.add(act);
export const tell = () => listeners.forEach((act) => act());
addEventListener("popstate", tell);
addEventListener("hashchange", tell);
addEventListener("message", ({ source, data }) => {
  if (source !== parent || parent === window || data?.loupe !== "select") return;
  const given = Object.fromEntries(Object.entries(data.selection ?? {}).map(([name, value]) => [name, String(value)]));
  set({ ...DEFAULTS, ...given });
});
