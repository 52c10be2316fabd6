// The page of a 2-D map.
import createScatterplot from "regl-scatterplot";
import * as data from "./data.js";
import { film } from "./film.js";
import { Panel } from "./panel.js";

const canvas = document.getElementById("canvas");
const frame = document.getElementById("plot");
const lasso = document.getElementById("lasso");
const size = () => ({ width: frame.clientWidth, height: frame.clientHeight });

const x = new Float32Array(data.count);
const y = new Float32Array(data.count);
for (let i = 0; i < data.count; i++) {
  x[i] = data.places[2 * i];
  y[i] = data.places[2 * i + 1];
}

function colours() {
  const paper = getComputedStyle(document.documentElement).getPropertyValue("--back").trim(), ink = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
  return { backgroundColor: paper, lassoColor: ink, pointColorHover: ink, pointColorActive: ink };
}
const plot = createScatterplot({
  canvas,
  ...size(),
  pointSize: data.pointSize,
  pointSizeSelected: 2,
  ...colours(),
  ...(data.count > 20000 ? { opacityBy: "density" } : { opacity: 0.85 }),
});

function values(column) {
  const out = new Float32Array(data.count);
  const last = column.kind === "number" ? Math.max(1, column.palette.length - 1) : 1;
  for (let i = 0; i < data.count; i++) out[i] = data.swatch(column, i) / last;
  return out;
}

let filtered = null;

async function draw(column) {
  const points = { x, y };
  const options = {};
  if (column) {
    points.z = values(column);
    options.zDataType = column.kind === "number" ? "continuous" : "categorical";
    const palette = column.palette.length > 1 ? column.palette : [column.palette[0], column.palette[0]];
    plot.set({ colorBy: "valueA", pointColor: palette });
  } else {
    plot.set({ colorBy: null, pointColor: "#1f77b4" });
  }
  await plot.draw(points, { ...options, preventFilterReset: true });
}

const panel = new Panel({
  recolour: draw,
  filter: (indices) => {
    filtered = indices;
    return indices ? plot.filter(indices) : plot.unfilter();
  },
  unselect: () => plot.deselect(),
  choose: (indices) => plot.select(indices, { preventEvent: true }),
  screen: (i) => plot.getScreenPosition(i),
  theme: () => plot.set(colours()),
});

plot.subscribe("pointover", (i) => panel.hover(i, ...plot.getScreenPosition(i)));
plot.subscribe("pointout", () => panel.hover(-1));
plot.subscribe("select", ({ points }) => { panel.select([...points]); panel.point(points.length === 1 ? points[0] : -1); });
plot.subscribe("view", () => panel.overlay());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.set(colours()));
plot.subscribe("deselect", () => panel.select([]));
lasso.onclick = () => {
  const on = lasso.classList.toggle("on");
  plot.set({ mouseMode: on ? "lasso" : "panZoom" });
};
// A lasso that ends where it began would count as a click on the point below and choose that one alone.
let start = [0, 0];
let moved = 0;
frame.addEventListener("mousedown", (event) => ([start, moved] = [[event.clientX, event.clientY], 0]), true);
frame.addEventListener("mousemove", (event) => (moved = Math.max(moved, Math.hypot(event.clientX - start[0], event.clientY - start[1]))), true);
frame.addEventListener("click", (event) => moved > 8 && event.stopPropagation(), true);
// all points in view, also where the frame is higher than wide
const whole = () => (frame.clientWidth < frame.clientHeight ? plot.zoomToArea({ x: -1, y: -1, width: 2, height: 2 }) : plot.reset());
document.getElementById("reset").onclick = whole;
new ResizeObserver(() => { plot.set(size()); panel.overlay(); }).observe(frame);

draw(panel.current).then(whole).then(() => {
  panel.overlay();
  film(async (places) => {
    for (let i = 0; i < data.count; i++) [x[i], y[i]] = [places[2 * i], places[2 * i + 1]];
    await draw(panel.current);
    panel.overlay();
  });
  window.loupe = {
    ready: true,
    screen: (i) => plot.getScreenPosition(i),
    shown: () => (filtered ? filtered.length : data.count),
    selected: () => [...plot.get("selectedPoints")],
  };
});
