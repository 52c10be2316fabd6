// Raw values to colours, here and not on the server, so that a slider costs nothing but pixels. As torchloupe.render.colour.
let palettes = {}, classes = ["#1f77b4"];
// The colours of classes, the same as in the still pictures; around again behind the last.
export const classColour = (i) => classes[i % classes.length];
export const usePalettes = (hex, ofClasses) => {
  classes = ofClasses;
  palettes = Object.fromEntries(Object.entries(hex).map(([name, text]) =>
    [name, Uint8Array.from({ length: 768 }, (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16))]));
};
export const names = () => Object.keys(palettes);
export const palette = (name, signed) => palettes[name === "auto" ? (signed ? "coolwarm" : "inferno") : name] ?? palettes.inferno;

export function peak(values, signed) {
  let top = 0;
  for (const value of values) if (Number.isFinite(value)) top = Math.max(top, signed ? Math.abs(value) : value);
  return top;
}

// The maps of one plane: shape [k, t, h, w]; one cell grid of a question at a frame.
export function grid(plane, values, question, frame) {
  const [k, t, h, w] = plane.shape, size = h * w;
  const step = t === 1 ? 0 : Math.min(frame, t - 1);
  const begin = (Math.min(question, k - 1) * t + step) * size;
  return { h, w, values: values.subarray(begin, begin + size) };
}

// Linear between the middles of cells, as torchloupe.axes.resize.
function axis(length, size) {
  const low = new Int32Array(size), high = new Int32Array(size), part = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const at = Math.max(0, ((i + 0.5) * length) / size - 0.5);
    low[i] = Math.min(length - 1, Math.floor(at));
    high[i] = Math.min(length - 1, low[i] + 1);
    part[i] = at - low[i];
  }
  return { low, high, part };
}

export function paint(canvas, cells, { top, signed, cmap, opacity, threshold, fade, contour }) {
  const { width, height } = canvas, x = axis(cells.w, width), y = axis(cells.h, height), table = palette(cmap, signed);
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), out = image.data;
  const alpha = Math.round(255 * opacity), v = cells.values, w = cells.w;
  const level = threshold > 0 ? threshold : 0.5, above = contour ? new Uint8Array(width * height) : null;
  for (let r = 0, o = 0; r < height; r++) {
    const up = y.low[r] * w, below = y.high[r] * w, q = y.part[r];
    for (let c = 0; c < width; c++, o += 4) {
      const p = x.part[c], a = x.low[c], b = x.high[c];
      const value = (1 - q) * ((1 - p) * v[up + a] + p * v[up + b]) + q * ((1 - p) * v[below + a] + p * v[below + b]);
      if (!Number.isFinite(value)) { // missing: hatched
        const on = (r + c) % 8 < 2 ? 255 : 120;
        out[o] = out[o + 1] = out[o + 2] = on; out[o + 3] = alpha;
        continue;
      }
      const unit = top > 0 ? Math.max(signed ? -1 : 0, Math.min(1, value / top)) : 0;
      if (above && Math.abs(unit) >= level) above[o >> 2] = 1;
      if (Math.abs(unit) < threshold) { out[o + 3] = 0; continue; }
      const at = 3 * Math.round(255 * (signed ? (unit + 1) / 2 : unit));
      out[o] = table[at]; out[o + 1] = table[at + 1]; out[o + 2] = table[at + 2];
      out[o + 3] = fade ? Math.round(signed ? Math.min(255, 2 * alpha) * Math.sqrt(Math.abs(unit)) : alpha * Math.abs(unit)) : alpha;
    }
  }
  if (above) outline(above, width, height, out);
  context.putImageData(image, 0, 0);
}

// The edge of what lies above the level: white within, dark without, so that it is seen on any colour.
function outline(above, width, height, out) {
  const thick = Math.max(1, Math.round(Math.min(width, height) / 250)), same = (i, r, c) => r < 0 || c < 0 || r >= height || c >= width || above[r * width + c] === above[i];
  for (let r = 0, i = 0; r < height; r++)
    for (let c = 0; c < width; c++, i++) {
      if (same(i, r - thick, c) && same(i, r + thick, c) && same(i, r, c - thick) && same(i, r, c + thick)) continue;
      out[4 * i] = out[4 * i + 1] = out[4 * i + 2] = above[i] ? 255 : 0;
      out[4 * i + 3] = above[i] ? 255 : 160;
    }
}

// Values of a grid at w x h pixels, as paint reads them.
export function fine(cells, width, height) {
  const x = axis(cells.w, width), y = axis(cells.h, height), v = cells.values, w = cells.w, out = new Float32Array(width * height);
  for (let r = 0, o = 0; r < height; r++)
    for (let c = 0, up = y.low[r] * w, below = y.high[r] * w, q = y.part[r]; c < width; c++, o++) {
      const p = x.part[c], a = x.low[c], b = x.high[c];
      out[o] = (1 - q) * ((1 - p) * v[up + a] + p * v[up + b]) + q * ((1 - p) * v[below + a] + p * v[below + b]);
    }
  return out;
}
