// One selection, in the address: every view draws it and changes it; back and forward work, a link reproduces the screen.
const DEFAULTS = { run: "0", view: "gallery", id: "", with: "", plane: "0", question: "0", frame: "0", sort: "id", down: "", filter: "[]",
  other: "", place: "", zoom: "", marks: "1", by: "number", x: "", y: "", group: "", diagonal: "",
  opacity: "0.5", cmap: "auto", scale: "map", threshold: "0", fade: "", contour: "" };
const listeners = new Set();

export const get = (name) => new URLSearchParams(location.hash.slice(1)).get(name) ?? DEFAULTS[name];
export const filters = () => { try { const found = JSON.parse(get("filter")); return Array.isArray(found) ? found : []; } catch { return []; } };

export function set(changes, { replace = false } = {}) {
  const now = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes))
    String(value) === DEFAULTS[name] ? now.delete(name) : now.set(name, value);
  const hash = "#" + now;
  if (hash === (location.hash || "#")) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  tell();
}

export const listen = (act) => listeners.add(act);
export const tell = () => listeners.forEach((act) => act());
addEventListener("popstate", tell);
addEventListener("hashchange", tell);
