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
export const pointSize = meta.pointSize;
export const colorBy = meta.colorBy;
export const places = new Float32Array(bytes("places"));
export const idOf = (i) => (meta.ids ? meta.ids[i] : String(i));
export const columns = meta.columns.map((column, i) => ({
  ...column,
  values: column.kind === "number" ? new Float32Array(bytes(`column${i}`)) : new Uint32Array(bytes(`column${i}`)),
}));

export const textOf = (column, i) =>
  column.kind === "number" ? String(Number(column.values[i].toPrecision(6))) : column.names[column.values[i]];

// The place of a point's colour in its column's palette.
export function swatch(column, i) {
  if (column.kind !== "number") return column.values[i];
  const share = (column.values[i] - column.low) / (column.high - column.low || 1);
  return Math.round(Math.min(1, Math.max(0, share || 0)) * (column.palette.length - 1));
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
