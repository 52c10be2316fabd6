"""The page with what it shows inside: one file that opens from disk, needs no network and can be mailed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from torchloupe.render.template import script_json
from torchloupe.store import whole
from torchloupe.view.api import Library, Run
from torchloupe.view.table import MOST

SIDE = 768


def report(paths: Sequence[Path], most: int = 60) -> str:
    """The page as HTML. most: samples of each run that are embedded with their maps, spread evenly; the table holds only those.

    Errors: BadInput as `Library`.
    """
    library = Library(paths)
    data: dict[str, Any] = {"library": library.plain(), "runs": [_embedded(run, most) for run in library.runs]}
    for about, run in zip(data["library"]["runs"], data["runs"], strict=True):
        if "rows" in run:
            rows = run["rows"]
            about["count"] = sum(1 for row in rows if not row["failed"])
            about["failed"] = len(rows) - about["count"]
    page = (files(__package__) / "view.html").read_text(encoding="utf-8")
    style = (files(__package__) / "view.css").read_text(encoding="utf-8")
    script = (files(__package__) / "view.js").read_text(encoding="utf-8").replace("</", "<\\/")
    head, link, rest = page.partition('<link rel="stylesheet" href="view.css">')
    body, tag, end = rest.partition('<script src="view.js"></script>')
    assert link
    assert tag
    embedded = f'<script id="embedded" type="application/json">{script_json(data)}</script>'
    return f"{head}<style>{style}</style>{body}{embedded}\n<script>{script}</script>{end}"


def write_report(paths: Sequence[Path], out: Path, most: int = 60) -> Path:
    """Write the page; whole or absent. Errors: BadInput as `report`, or for a file that cannot be written."""
    return whole(out, report(paths, most))


def _embedded(run: Run, most: int) -> dict[str, Any]:
    if run.points:
        return {"points": "" if run.features else run.page()}
    count = run.table.count()
    step = max(1, -(-count // most))
    rows = [row for begin in range(0, count, MOST) for row in run.table.rows(start=begin, count=MOST)][::step]
    left = run.table.rows(count=MOST, failed=True)
    return {"rows": [*rows, *left], "samples": {row["id"]: _sample(run, str(row["id"])) for row in rows}}


def _sample(run: Run, id: str) -> dict[str, Any]:
    about = run.sample(id)
    frames = about["base"][0] if about["base"] else 0
    return {
        "about": about,
        "planes": [_text(run.plane(id, i).tobytes()) for i in range(len(about["planes"]))],
        "pictures": [_text(run.picture(id, i, SIDE)) for i in range(frames)],
        "answers": [_text(run.picture(id, i, SIDE, answer=True)) for i in range((about.get("answer") or [0])[0])],
        "drawing": _text(run.drawing(id)) if about.get("drawing") else "",
    }


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
