// Samples and planes that were asked for a moment ago; the oldest go.
import { source } from "./source.js";
const most = 256, kept = new Map();
function remembered(key, ask) {
  if (kept.has(key)) { const found = kept.get(key); kept.delete(key); kept.set(key, found); return found; }
  const asked = ask();
  kept.set(key, asked);
  asked.catch(() => kept.delete(key));
  if (kept.size > most) kept.delete(kept.keys().next().value);
  return asked;
}
export const sample = (run, id) => remembered(`s${run}|${id}`, () => source.sample(run, id));
export const plane = (run, id, number) => remembered(`p${run}|${number}|${id}`, () => source.plane(run, id, number));
