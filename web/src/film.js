// The moments of a film: a slider over them, play, and the places between two of them.
import * as data from "./data.js";

const $ = (id) => document.getElementById(id);
const PACE = 1200; // milliseconds from one map to the next

// move(places): all places at a moment, as `data.places`; it may be a promise, and nothing moves meanwhile.
export function film(move) {
  if (!data.frames) return;
  const size = data.places.length, last = data.moments.length - 1, held = new Float32Array(size), slider = $("moment");
  let busy = false, playing = 0;
  async function show() {
    if (busy) return;
    busy = true;
    const at = Number(slider.value), from = Math.min(Math.floor(at), Math.max(0, last - 1)), to = Math.min(from + 1, last), part = at - from, share = part * part * (3 - 2 * part); // slow at both ends
    for (let i = 0; i < size; i++) held[i] = data.frames[from * size + i] * (1 - share) + data.frames[to * size + i] * share;
    const name = String(data.moments[Math.round(at)]);
    $("when").textContent = name;
    slider.setAttribute("aria-valuetext", name);
    await move(held);
    busy = false;
    if (Number(slider.value) !== at) show();
  }
  function step(since, from) {
    const at = from + (performance.now() - since) / PACE;
    slider.value = Math.min(at, last);
    show();
    if (at < last) playing = requestAnimationFrame(() => step(since, from));
    else stop();
  }
  function stop() {
    cancelAnimationFrame(playing);
    playing = 0;
    $("play").textContent = "play";
  }
  slider.max = last;
  slider.value = last;
  slider.oninput = () => { stop(); show(); };
  $("play").onclick = () => {
    if (playing) return stop();
    $("play").textContent = "pause";
    step(performance.now(), Number(slider.value) >= last ? 0 : Number(slider.value));
  };
  $("film").hidden = false;
  show();
}
