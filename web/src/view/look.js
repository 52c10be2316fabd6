import { get } from "./state.js";
import { peak } from "./paint.js";
const run = { key: "", top: 0 };
// The value of the last colour: of this map, of all maps of the sample at this plane, or of all that were shown of the run.
export function look(plane, cells, values) {
  const signed = plane.signed, scale = get("scale"), own = peak(cells.values, signed);
  const key = `${get("run")}|${plane.method}|${plane.layer}`;
  if (run.key !== key) Object.assign(run, { key, top: 0 });
  run.top = Math.max(run.top, peak(values, signed));
  const top = scale === "picture" ? peak(values, signed) : scale === "run" ? run.top : own;
  return { top, signed, cmap: get("cmap"), opacity: Number(get("opacity")), threshold: Number(get("threshold")), fade: get("fade") === "1" };
}
