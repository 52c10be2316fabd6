// Three ways to feed the page: a server, what a report embeds, later a notebook. All answer the same questions.
import { npz } from "./npz.js";
import { peak } from "./paint.js";

const held = document.getElementById("embedded");

export class Gone extends Error {}

async function fetched(path, as) {
  const answer = await fetch(path).catch(() => { throw new Gone("the server is gone: run loupe view again, then reload"); });
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error ?? `${path}: ${answer.status}`);
  }
  return answer[as]();
}

const query = (asked) => new URLSearchParams(Object.entries(asked).filter(([, value]) => value !== "" && value != null)).toString();

const http = {
  embedded: false,
  library: () => fetched("api/runs", "json"),
  rows: (run, asked) => fetched(`api/runs/${run}/rows?${query(asked)}`, "json"),
  histogram: (run, asked) => fetched(`api/runs/${run}/histogram?${query(asked)}`, "json"),
  sample: (run, id) => fetched(`api/runs/${run}/sample?${query({ id })}`, "json"),
  plane: async (run, id, plane) => new Float32Array(await fetched(`api/runs/${run}/plane?${query({ id, plane })}`, "arrayBuffer")),
  picture: (run, id, frame = 0, size = 0, answer = 0) => `api/runs/${run}/picture?${query({ id, frame, size: size || "", answer: answer || "" })}`,
  columns: (run, asked) => fetched(`api/runs/${run}/columns?${query({ ...asked, names: JSON.stringify(asked.names) })}`, "json"),
  neighbours: (run, index) => fetched(`api/runs/${run}/neighbours?${query({ index })}`, "json"),
  peak: (run, { method, layer }) => fetched(`api/runs/${run}/peak?${query({ method, layer })}`, "json"),
  npz: async (run, id) => `api/runs/${run}/npz?${query({ id })}`,
  drawing: (run, id) => `api/runs/${run}/drawing?${query({ id })}`,
  csv: async (run, asked) => `api/runs/${run}/csv?${query(asked)}`,
  points: (run) => `api/runs/${run}/points`,
};

const number = (value) => typeof value === "number" && Number.isFinite(value);
const SIGNS = {
  "=": (a, b) => a === b, "!=": (a, b) => a !== b, "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "~": (a, b) => String(a ?? "").toLowerCase().includes(String(b).toLowerCase()),
};

function report(data) {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const fits = (row, filter) => JSON.parse(filter || "[]").every(([column, sign, value]) => row[column] != null && SIGNS[sign](row[column], value));
  return {
    embedded: true,
    library: async () => data.library,
    rows: async (run, { filter, sort = "id", down, from = 0, count = 100, failed }) => {
      const rows = data.runs[run].rows.filter((row) => Boolean(row.failed) === Boolean(failed) && fits(row, filter));
      const order = (a, b) => (a == null) - (b == null) || (a > b) - (a < b);
      rows.sort((a, b) => (down ? -1 : 1) * order(a[sort], b[sort]) || order(a.id, b.id));
      return { count: rows.length, rows: rows.slice(from, Number(from) + Number(count)) };
    },
    histogram: async (run, { column, filter }) => {
      const values = data.runs[run].rows.filter((row) => !row.failed && fits(row, filter)).map((row) => row[column]);
      const numbers = values.filter(number);
      if (!numbers.length) {
        const counts = new Map();
        for (const value of values) counts.set(String(value), (counts.get(String(value)) ?? 0) + 1);
        const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 40);
        return { kind: "text", names: most.map((m) => m[0]), counts: most.map((m) => m[1]) };
      }
      const low = Math.min(...numbers), high = Math.max(...numbers), counts = new Array(40).fill(0);
      for (const value of numbers) counts[Math.min(39, Math.floor(((value - low) * 40) / (high - low || 1)))]++;
      return { kind: "number", low, high, counts };
    },
    sample: async (run, id) => data.runs[run].samples[id]?.about ?? Promise.reject(new Error(`this report holds no sample ${id}`)),
    plane: async (run, id, plane) => new Float32Array(bytes(data.runs[run].samples[id].planes[plane]).buffer),
    picture: (run, id, frame = 0, size = 0, answer = 0) => "data:image/png;base64," + (data.runs[run].samples[id]?.[answer ? "answers" : "pictures"][frame] ?? ""),
    columns: async (run, { names, filter }) => {
      const rows = data.runs[run].rows.filter((row) => !row.failed && fits(row, filter));
      return { ids: rows.map((row) => row.id), of: rows.length, values: Object.fromEntries(names.map((name) => [name, rows.map((row) => row[name] ?? null)])) };
    },
    neighbours: async (run, index, id) => ({ id, row: {}, of: [], ids: [], distance: [], kept: [], features: null }),
    peak: async (run, { method, layer }) => {
      const held = Object.values(data.runs[run].samples);
      let top = 0;
      for (const one of held) one.about.planes.forEach((plane, i) => {
        if (plane.method === method && plane.layer === layer) top = Math.max(top, peak(new Float32Array(bytes(one.planes[i]).buffer), plane.signed));
      });
      return { top, of: held.length };
    },
    npz: async (run, id) => {
      const held = data.runs[run].samples[id];
      const arrays = held.about.planes.map((plane, i) => [`map/${plane.method}/${plane.layer}`, plane.shape, bytes(held.planes[i])]);
      return URL.createObjectURL(npz(arrays));
    },
    drawing: (run, id) => "data:image/png;base64," + (data.runs[run].samples[id]?.drawing ?? ""),
    csv: async (run, asked) => {
      const { rows } = await source.rows(run, { ...asked, count: Infinity }), names = ["id", ...Object.keys(data.library.runs[run].columns ?? {})];
      const cell = (value) => (value == null ? "" : /[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
      const text = [names, ...rows.map((row) => names.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
      return URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    },
    points: (run) => URL.createObjectURL(new Blob([data.runs[run].points], { type: "text/html" })),
  };
}

export const source = held ? report(JSON.parse(held.textContent)) : http;
