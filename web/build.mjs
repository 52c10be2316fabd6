// Builds the bundles of the pages and the licences of what is in them: npm ci && npm run build
import { build } from "esbuild";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "../src/torchloupe/render/page");
const packages = new Set();

for (const [name, entry, goal] of [
  ["page2d", "src/page2d.js", out],
  ["page3d", "src/page3d.js", out],
  ["view", "src/view/main.js", join(here, "../src/torchloupe/view")],
]) {
  const result = await build({
    absWorkingDir: here,
    entryPoints: [entry],
    bundle: true,
    minify: true,
    format: "iife",
    target: "es2020",
    legalComments: "none",
    metafile: true,
    outfile: join(goal, `${name}.js`),
  });
  for (const output of Object.values(result.metafile.outputs))
    for (const [path, { bytesInOutput }] of Object.entries(output.inputs)) {
      const found = path.match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)/);
      if (found && bytesInOutput) packages.add(found[0]);
    }
}

// regl-scatterplot is published with these inside (kdbush as a copy in its sources).
for (const name of ["@flekschas/utils", "camera-2d-simple", "dom-2d-camera", "earcut", "gl-matrix", "kdbush", "regl-line"])
  packages.add(`node_modules/${name}`);

const notices = [...packages].sort().map((folder) => {
  const about = JSON.parse(readFileSync(join(here, folder, "package.json"), "utf8"));
  const file = ["LICENSE", "LICENSE.md", "LICENCE", "LICENSE.txt", "license.txt"].find((name) => {
    try {
      return readFileSync(join(here, folder, name));
    } catch {
      return false;
    }
  });
  const text = file ? readFileSync(join(here, folder, file), "utf8").trim() : `License: ${about.license} (${about.homepage ?? ""})`;
  return `${about.name} ${about.version} (${about.license})\n\n${text}\n`;
});
const line = "\n" + "-".repeat(80) + "\n\n";
writeFileSync(join(out, "THIRD_PARTY.txt"), "page2d.js and page3d.js contain:\n" + line + notices.join(line));
