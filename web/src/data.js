// What the page was given: places, columns, ids and thumbnails, all inside the file.

const read = (id) => document.getElementById(id).textContent;

function bytes(id) {
  const text = atob(read(id));
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out.buffer;
}

const meta = JSON.parse(read("meta"));

export const title = meta.title;
export const count = meta.count;
export const dims = meta.dims;
export const view = meta.view;
export const clusters = meta.clusters ?? null;
export const pointSize = meta.pointSize;
export const colorBy = meta.colorBy;
export const places = new Float32Array(bytes("places"));
export const moments = meta.frames ?? null;
export const frames = moments && new Float32Array(bytes("frames"));
export const idOf = (i) => (meta.ids ? meta.ids[i] : String(i));
export const columns = meta.columns.map((column, i) => ({
  ...column,
  values: column.kind === "number" ? new Float64Array(bytes(`column${i}`)) : new Uint32Array(bytes(`column${i}`)),
}));

// A number as it is, a date as people write it.
export function words(column, value) {
  if (!Number.isFinite(value)) return "missing";
  if (!column.dates) return String(value);
  const text = new Date(value * 1000).toISOString();
  return text.endsWith("T00:00:00.000Z") ? text.slice(0, 10) : text.replace("T", " ").replace(/(\.000)?Z$/, "");
}
export const textOf = (column, i) => (column.kind === "number" ? words(column, column.values[i]) : column.names[column.values[i]]);

// The place of a point's colour in its column's palette.
export function swatch(column, i) {
  if (column.kind !== "number") return column.values[i];
  if (!Number.isFinite(column.values[i])) return column.palette.length - 1;
  const share = (column.values[i] - column.low) / (column.high - column.low || 1);
  return Math.round(Math.min(1, Math.max(0, share)) * (column.palette.length - 2));
}

const thumbs = meta.thumbs && { ...meta.thumbs, index: new Int32Array(bytes("thumbs")) };

// A thumbnail as CSS, or null.
export function thumbnail(i) {
  if (!thumbs || thumbs.index[i] < 0) return null;
  const perSheet = thumbs.across * thumbs.across;
  const cell = thumbs.index[i] % perSheet;
  const sheet = thumbs.sheets[Math.floor(thumbs.index[i] / perSheet)];
  const x = (cell % thumbs.across) * thumbs.side;
  const y = Math.floor(cell / thumbs.across) * thumbs.side;
  return `width:${thumbs.side}px;height:${thumbs.side}px;background:url(${sheet}) -${x}px -${y}px`;
}

// Is a point of the plane inside a closed outline?
export function inside(outline, x, y) {
  let found = false;
  for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
    const [ax, ay] = outline[i];
    const [bx, by] = outline[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) found = !found;
  }
  return found;
}
