"""What the pages about pose models are made of: the page itself, tables, figures. They fit a telephone's 390 pixels."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.render import pose
from torchloupe.render.template import address, filled
from torchloupe.store import whole

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}</title>
<style>
body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.5em 0;overflow-wrap:normal}
td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
td:first-child,th:first-child{text-align:left;white-space:normal;min-width:6em}
table.total tr:last-child td{font-weight:600}img{max-width:100%}
figure{display:inline-block;margin:.4em;vertical-align:top;max-width:100%}
figcaption{font-size:.85em;color:#555;max-width:24em}
dl{display:grid;grid-template-columns:minmax(5em,max-content) 1fr;gap:.1em .8em}dt{font-weight:600}dd{margin:0}
@media(max-width:500px){body{padding:0 .6em;margin:1em auto}td,th{padding:.15em .4em}}
</style>
<h1>{{title}}</h1>
{{body}}
</html>
"""


def page(title: str, sections: Sequence[str]) -> bytes:
    """A page of sections, which are HTML."""
    return filled(_PAGE, {"title": html.escape(title), "body": "\n".join(sections)}).encode()


def shown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, which scrolls by itself where it is wider than the page; a last row "all" in bold."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    kind = ' class="total"' if rows and rows[-1][0] == "all" else ""
    body = f"<tr>{top}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table{kind}>{body}</table></div>'


def plot(folder: Path, name: str, title: str, made: Any) -> str:
    """A heading and a picture below it, written beside the page."""
    saved(folder / f"{name}.png", pose.png(made))
    return f'<h2>{html.escape(title)}</h2><img src="{address(name)}.png" alt="{html.escape(title)}">'


def captioned(names: Sequence[str], caption: str) -> str:
    """Pictures beside the page, and a line below them."""
    pictures = "".join(f'<img src="{address(name)}" alt="">' for name in names)
    return f"<figure>{pictures}<figcaption>{html.escape(caption)}</figcaption></figure>"


def meanings(known: dict[str, str]) -> str:
    """Words and what they mean."""
    return "<dl>" + "".join(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in known.items()) + "</dl>"


def saved(path: Path, content: bytes) -> Path:
    """Write a file, and the folder that it is in. Errors: BadInput where either cannot be."""
    made_folder(path.parent)
    whole(path, content)
    return path


def made_folder(path: Path) -> None:
    """Errors: BadInput for a place where there can be no folder."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be made a folder: {error.strerror}") from None


def number(value: float) -> str:
    """Four significant digits; '-' for what is not known."""
    return "-" if not np.isfinite(value) else f"{value:.4g}"
