import { get } from "./state.js";
import { peak } from "./paint.js";
import { source } from "./source.js";
const runs = new Map();
// The value of the last colour over the run, once it is known; then everything is painted again.
export function ofRun(plane, done) {
  const run = plane.run ?? get("run"), key = `${run}|${plane.method}|${plane.layer}`;
  if (!runs.has(key)) {
    runs.set(key, null);
    source.peak(run, plane).then((found) => { runs.set(key, found); done(); }).catch(() => runs.delete(key));
  }
  return runs.get(key);
}
// The value of the last colour: of this map, of all maps of the sample at this plane, or of the run.
export function look(plane, cells, values, again = () => {}) {
  const signed = plane.signed, scale = get("scale"), own = peak(cells.values, signed);
  const top = scale === "picture" ? peak(values, signed) : scale === "run" && plane.method !== "b - a" ? ofRun(plane, again)?.top ?? own : own;
  return { top, signed, cmap: get("cmap"), opacity: Number(get("opacity")), threshold: Number(get("threshold")), fade: get("fade") === "" ? signed : get("fade") === "1", contour: get("contour") === "1" };
}
