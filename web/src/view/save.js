// What is on screen as files: pictures of this sample, its arrays, the table.
import { make } from "./dom.js";
import { source } from "./source.js";
import { get } from "./state.js";

const NS = "http://www.w3.org/2000/svg", LEAST = 512;
export function hand(name, address) {
  const link = make("a", { href: address, download: name.replaceAll(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 120) });
  document.body.append(link);
  link.click();
  link.remove();
}
async function drawn(picture) {
  await picture.decode().catch(() => {});
  const canvas = make("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.toDataURL("image/png");
}
const parts = () => { const frame = document.querySelector(".one .large .frame"); return { picture: frame?.querySelector("img"), map: frame?.querySelector("canvas"), marks: frame?.querySelector("svg") }; };
export async function png(id) {
  const { picture, map } = parts(), wide = picture?.naturalWidth ?? map.width, tall = picture?.naturalHeight ?? map.height;
  const scale = Math.max(1, Math.ceil(LEAST / Math.max(wide, tall))), canvas = make("canvas", { width: wide * scale, height: tall * scale }), context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  if (picture) { await picture.decode().catch(() => {}); context.drawImage(picture, 0, 0, canvas.width, canvas.height); }
  context.imageSmoothingEnabled = true;
  if (map) context.drawImage(map, 0, 0, canvas.width, canvas.height);
  hand(`${id}.png`, canvas.toDataURL("image/png"));
}
export async function vector(id) {
  const { picture, map, marks } = parts(), wide = picture?.naturalWidth ?? map.width, tall = picture?.naturalHeight ?? map.height;
  const whole = document.createElementNS(NS, "svg");
  for (const [name, value] of [["xmlns", NS], ["viewBox", `0 0 ${wide} ${tall}`], ["width", Math.max(LEAST, wide)]]) whole.setAttribute(name, value);
  const title = document.createElementNS(NS, "title");
  title.textContent = `${id} ${document.querySelector(".one .large figcaption b")?.textContent ?? ""}`;
  whole.append(title);
  for (const address of [picture ? await drawn(picture) : null, map?.toDataURL("image/png")]) {
    if (!address) continue;
    const image = document.createElementNS(NS, "image");
    for (const [name, value] of [["href", address], ["width", wide], ["height", tall]]) image.setAttribute(name, value);
    whole.append(image);
  }
  if (marks && get("marks") === "1") { const copy = marks.cloneNode(true); copy.removeAttribute("class"); whole.append(copy); }
  hand(`${id}.svg`, URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(whole)], { type: "image/svg+xml" })));
}
export const arrays = async (run, id) => hand(`${id}.npz`, await source.npz(run, id));
export const table = async (run, name) => hand(`${name}.csv`, await source.csv(run, { filter: get("filter"), sort: get("sort"), down: get("down") }));
