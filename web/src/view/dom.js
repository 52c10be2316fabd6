export const $ = (id) => document.getElementById(id);
export function make(tag, about = {}, ...inside) {
  const { data, aria, role, style, ...rest } = about;
  const made = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(data ?? {})) made.dataset[name] = value;
  for (const [name, value] of Object.entries(aria ?? {})) made.setAttribute(`aria-${name}`, value);
  if (role) made.setAttribute("role", role);
  if (style) made.style.cssText = style;
  made.append(...inside.filter((one) => one != null));
  return made;
}
export const digits = (value) => {
  if (typeof value !== "number") return value == null ? "" : String(value);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
};
export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
