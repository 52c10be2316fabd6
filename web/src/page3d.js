// The page of a 3-D map: turn by dragging, zoom by the wheel, lasso, save the view.
import {
  BufferAttribute, BufferGeometry, Color, LineBasicMaterial, LineSegments, Matrix4, OrthographicCamera, Points, Scene,
  ShaderMaterial, WebGLRenderer,
} from "three";
import * as data from "./data.js";
import { film } from "./film.js";
import { Panel } from "./panel.js";

const $ = (id) => document.getElementById(id);
const frame = $("plot");
const outline = $("outline");
const renderer = new WebGLRenderer({ canvas: $("canvas"), antialias: true, preserveDrawingBuffer: true });
const paper = () => renderer.setClearColor(getComputedStyle(document.documentElement).getPropertyValue("--back").trim(), 1);
paper();
renderer.setPixelRatio(window.devicePixelRatio);
const camera = new OrthographicCamera();
const scene = new Scene();
const view = { ...data.view };

const low = [Infinity, Infinity, Infinity];
const high = [-Infinity, -Infinity, -Infinity];
const all = data.frames ?? data.places;
for (let i = 0; i < all.length; i++) {
  const axis = i % 3;
  low[axis] = Math.min(low[axis], all[i]);
  high[axis] = Math.max(high[axis], all[i]);
}
const middle = low.map((v, axis) => (v + high[axis]) / 2);
const half = low.map((v, axis) => Math.max((high[axis] - v) / 2, 1e-9));
const reach = Math.hypot(...half);
const places = data.places.map((v, i) => v - middle[i % 3]);
const shown = new Uint8Array(data.count).fill(1);
const colours = new Uint8Array(3 * data.count);

const cloud = new BufferGeometry();
cloud.setAttribute("position", new BufferAttribute(places, 3));
cloud.setAttribute("tint", new BufferAttribute(colours, 3, true));
cloud.setAttribute("shown", new BufferAttribute(shown, 1));
const material = new ShaderMaterial({
  uniforms: { size: { value: data.pointSize * window.devicePixelRatio }, reach: { value: reach } },
  vertexShader: `attribute vec3 tint; attribute float shown; uniform float size; uniform float reach; varying vec3 colour;
    void main() {
      colour = tint;
      vec4 seen = modelViewMatrix * vec4(position, 1.0);
      gl_Position = shown > 0.5 ? projectionMatrix * seen : vec4(2.0, 2.0, 2.0, 1.0);
      gl_PointSize = size * clamp(1.0 + 0.45 * (seen.z + 2.0 * reach) / reach, 0.55, 1.45);
    }`,
  fragmentShader: `varying vec3 colour;
    void main() { if (length(gl_PointCoord - 0.5) > 0.5) discard; gl_FragColor = vec4(colour, 1.0); }`,
});
scene.add(new Points(cloud, material));

const corners = [];
for (let a = 0; a < 8; a++)
  for (const bit of [1, 2, 4])
    if (!(a & bit)) for (const corner of [a, a | bit]) for (let k = 0; k < 3; k++) corners.push(corner & (1 << k) ? half[k] : -half[k]);
const box = new BufferGeometry();
box.setAttribute("position", new BufferAttribute(new Float32Array(corners), 3));
scene.add(new LineSegments(box, new LineBasicMaterial({ color: 0xcccccc })));

// Right, up and towards the viewer, as in the still picture.
function directions() {
  const e = (view.elev * Math.PI) / 180;
  const a = (view.azim * Math.PI) / 180;
  const [se, ce, sa, ca] = [Math.sin(e), Math.cos(e), Math.sin(a), Math.cos(a)];
  return [[-sa, ca, 0], [-se * ca, -se * sa, ce], [ce * ca, ce * sa, se]];
}

function scale() {
  return (Math.min(frame.clientWidth, frame.clientHeight) / 2 / reach) * view.zoom;
}

let waiting = false;
function render() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const [right, up, front] = directions();
    const distance = 2 * reach;
    const turn = new Matrix4().set(...right, 0, ...up, 0, ...front, -distance, 0, 0, 0, 1);
    camera.matrixAutoUpdate = false;
    camera.matrixWorldInverse.copy(turn);
    camera.matrix.copy(turn).invert();
    camera.matrixWorld.copy(camera.matrix);
    camera.matrixWorldAutoUpdate = false;
    const w = frame.clientWidth / 2 / scale();
    const h = frame.clientHeight / 2 / scale();
    Object.assign(camera, { left: -w, right: w, top: h, bottom: -h, near: 0, far: 4 * reach });
    camera.updateProjectionMatrix();
    renderer.render(scene, camera);
    panel?.overlay();
    $("view").textContent = `--view=${view.elev.toFixed(1)},${view.azim.toFixed(1)},${view.zoom.toFixed(2)}`;
  });
}

function resize() {
  renderer.setSize(frame.clientWidth, frame.clientHeight, false);
  outline.setAttribute("viewBox", `0 0 ${frame.clientWidth} ${frame.clientHeight}`);
  render();
}

function screen(i, [right, up] = directions(), by = scale()) {
  const [x, y, z] = [places[3 * i], places[3 * i + 1], places[3 * i + 2]];
  return [
    frame.clientWidth / 2 + by * (x * right[0] + y * right[1] + z * right[2]),
    frame.clientHeight / 2 - by * (x * up[0] + y * up[1] + z * up[2]),
  ];
}

// The shown point nearest to the pointer, of equally near ones the one in front; -1 beyond 8 pixels.
function nearest(x, y) {
  const [[a, b, c], [d, e, f], [g, h, k]] = directions();
  const by = scale();
  const left = (x - frame.clientWidth / 2) / by;
  const top = (frame.clientHeight / 2 - y) / by;
  const tie = 4 / by / by;
  let best = -1;
  let least = 64 / by / by;
  let depth = -Infinity;
  for (let i = 0, j = 0; i < data.count; i++, j += 3) {
    if (!shown[i]) continue;
    const [px, py, pz] = [places[j], places[j + 1], places[j + 2]];
    const across = px * a + py * b + pz * c - left;
    const up = px * d + py * e + pz * f - top;
    const apart = across * across + up * up;
    if (apart > least) continue;
    const near = px * g + py * h + pz * k;
    if (apart < least - tie || near > depth) [best, least, depth] = [i, apart, near];
  }
  return best;
}

let column = null;
let selected = [];
let panel = null;

function paint() {
  const palette = column ? column.palette.map((hex) => new Color().setStyle(hex, "srgb-linear")) : [new Color(0x1f77b4)];
  const grey = selected.length ? 0.25 : 1;
  for (let i = 0; i < data.count; i++) {
    const c = palette[column ? data.swatch(column, i) : 0];
    for (const [k, v] of [c.r, c.g, c.b].entries()) colours[3 * i + k] = 255 * (1 - grey * (1 - v));
  }
  for (const i of selected) {
    const c = palette[column ? data.swatch(column, i) : 0];
    for (const [k, v] of [c.r, c.g, c.b].entries()) colours[3 * i + k] = 255 * v;
  }
  cloud.attributes.tint.needsUpdate = true;
  render();
}

panel = new Panel({
  screen: (i) => screen(i),
  theme: () => { paper(); render(); },
  choose: (indices) => { selected = indices; paint(); },
  recolour: (chosen) => {
    column = chosen;
    paint();
  },
  filter: (indices) => {
    shown.fill(indices ? 0 : 1);
    for (const i of indices ?? []) shown[i] = 1;
    cloud.attributes.shown.needsUpdate = true;
    render();
  },
  unselect: () => {
    selected = [];
    paint();
  },
});
column = panel.current ?? null;

let drag = null;
let turned = false;
let line = null;
const lasso = $("lasso");
lasso.onclick = () => lasso.classList.toggle("on");
const at = (event) => {
  const { left, top } = frame.getBoundingClientRect();
  return [event.clientX - left, event.clientY - top];
};
const canvas = $("canvas");
canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  panel.hover(-1);
  if (lasso.classList.contains("on") || event.shiftKey) line = [at(event)];
  else drag = at(event);
  turned = false;
};
let asked = false;
canvas.onpointermove = (event) => {
  const [x, y] = at(event);
  if (line) {
    line.push([x, y]);
    outline.firstElementChild.setAttribute("points", line.map((p) => p.join(",")).join(" "));
  } else if (drag) {
    turned = true;
    view.azim = ((((view.azim - (x - drag[0]) * 0.4 + 180) % 360) + 360) % 360) - 180;
    view.elev = Math.max(-90, Math.min(90, view.elev + (y - drag[1]) * 0.4));
    drag = [x, y];
    render();
  } else if (!asked) {
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      panel.hover(nearest(x, y), x, y);
    });
  }
};
canvas.onpointerup = (event) => {
  if (drag && !turned) panel.point(nearest(...at(event)));
  if (line && line.length > 2) {
    const axes = directions();
    const by = scale();
    selected = [];
    for (let i = 0; i < data.count; i++) if (shown[i] && data.inside(line, ...screen(i, axes, by))) selected.push(i);
    panel.select(selected);
    paint();
  }
  outline.firstElementChild.setAttribute("points", "");
  line = drag = null;
};
canvas.onpointerleave = () => panel.hover(-1);
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    view.zoom = Math.max(0.2, Math.min(50, view.zoom * Math.exp(-event.deltaY / 500)));
    render();
  },
  { passive: false },
);
$("reset").onclick = () => {
  Object.assign(view, data.view);
  render();
};

const save = $("save");
save.hidden = false;
save.onclick = async () => {
  const text = JSON.stringify(view);
  if (location.protocol.startsWith("http")) {
    const answer = await fetch("view", { method: "POST", body: text });
    save.textContent = answer.ok ? "saved" : "not saved";
  } else {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "view.json";
    link.click();
  }
};

new ResizeObserver(resize).observe(frame);
resize();
film((moment) => {
  for (let i = 0; i < places.length; i++) places[i] = moment[i] - middle[i % 3];
  cloud.attributes.position.needsUpdate = true;
  render();
});
paint();
window.loupe = {
  ready: true,
  screen: (i) => screen(i),
  shown: () => shown.reduce((sum, v) => sum + v, 0),
  selected: () => selected,
  view: () => ({ ...view }),
};
