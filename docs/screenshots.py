"""Every view of the page, of real runs, at two widths and in both themes: build/screenshots. See `make screenshots`.

The runs are made by the commands themselves in build/runs, from nothing but the demos; those that are there are kept.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from torchloupe.cli import main as loupe
from torchloupe.view.api import Library
from torchloupe.view.server import serve

ROOT = Path(__file__).parent.parent
RUNS, OUT = ROOT / "build" / "runs", ROOT / "build" / "screenshots"
MODEL = (
    "--model torch:torchloupe.examples.digits:network --weights {runs}/demo/digits.safetensors "
    "--size 64 --mean .5 .5 .5 --std .5 .5 .5"
)
PICTURES = "{runs}/demo/picture-0.png {runs}/demo/picture-4.png {runs}/demo/picture-5.png {runs}/demo/picture-6.png"
COMMANDS = {
    "demo": "demo --save {runs}/demo",
    "cam": f"cam {PICTURES} {MODEL} --layers stage2 stage3 --method gradcam layercam occlusion --save {{runs}}/cam",
    "judged": f"judge {PICTURES} {MODEL} --layers stage3 --method gradcam layercam --save {{runs}}/judged",
    "features": f"features {PICTURES} {MODEL} --at stage1 stage2 stage3 --save {{runs}}/features",
    "schedule": "schedule torch:CosineAnnealingLR?T_max=30&epochs=30 torch:StepLR?step_size=10&epochs=30 -s {runs}/schedule/lr.png -d 1000",
    "embed": "demo embed --save {runs}/embed",
    "pose": "demo pose --save {runs}/pose",
    "gait": "demo gait --save {runs}/gait",
}
PATHS = ("cam", "judged", "features", "schedule", "pose/random", "pose/trained", "gait/maps", "embed/digits")
# name -> (what the rail says of the run, the selection, what must be there)
SHOTS = {
    "gallery": ("cam", "view=gallery", ".tile canvas"),
    "sample": ("cam", "view=sample&id=picture-5&place=.7,.3&contour=1", ".at td"),
    "beside": ("cam", "view=sample&id=picture-4&with=picture-5", ".difference canvas"),
    "table": ("judged", "view=table", "tbody tr"),
    "judged": ("judged", "view=sample&id=picture-4", ".chart path"),
    "features": ("features", "view=sample&id=picture-5-features&by=max&place=.7,.3", ".alike canvas"),
    "schedules": ("schedule", "view=sample&id=lr", ".chart path"),
    "joints": ("trained: joints", "view=table&sort=EPE&down=1", "tbody tr"),
    "joint": ("trained: joints", "view=sample&id=3/left_wrist", ".marks circle"),
    "by-joint": ("trained: joints", "view=spread&y=EPE&group=joint", ".dots"),
    "scatter": ("trained: joints", "view=scatter&x=EPE&y=confidence&group=joint", ".dots"),
    "models": ("random: joints", "view=compare&y=EPE", "#verdict"),
    "walk": ("maps", "view=sample", ".frames canvas"),
    "map": ("after.npz", "view=map", "iframe"),
}


def main(wanted: Sequence[str] = ()) -> int:
    """Make what is missing, then take all pictures, or those of these names."""
    for name, words in COMMANDS.items():
        if not (RUNS / name).exists():
            print(f"loupe {words.format(runs=RUNS)}", flush=True)
            loupe(shlex.split(words.format(runs=RUNS)))
    paths = [RUNS / path for path in PATHS if path != "embed/digits" and (RUNS / path).exists()]
    paths += sorted((RUNS / "embed").rglob("after.npz")) + sorted((RUNS / "embed").rglob("after.feats.npz"))
    OUT.mkdir(parents=True, exist_ok=True)
    library, found = Library(paths), []
    threading.Thread(target=serve, args=(library, found.append), daemon=True).start()
    while not found:
        time.sleep(0.05)
    names = [run.name for run in library.runs]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium)
        for name, (run, selection, there) in SHOTS.items():
            if wanted and name not in wanted:
                continue
            if run not in names:
                print(f"{name}: no run {run!r}")
                continue
            number = names.index(run)
            if selection == "view=sample":
                selection += f"&id={library.runs[number].table.rows(count=1)[0]['id']}"
            for width in (1280, 390):
                for theme in ("light", "dark"):
                    take(browser, f"{found[0]}#run={number}&{selection}", OUT / f"{name}-{width}-{theme}.png", there)
    return 0


def take(browser: Any, at: str, goal: Path, there: str) -> None:
    """One picture, once what must be there is there."""
    width, theme = goal.stem.split("-")[-2:]
    context = browser.new_context(viewport={"width": int(width), "height": 900}, color_scheme=theme)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(at)
    page.wait_for_function("() => window.loupe && window.loupe.ready")
    page.wait_for_selector(there, state="attached")
    page.wait_for_timeout(600)
    page.screenshot(path=str(goal))
    print(goal.name, *wrong, flush=True)
    context.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
