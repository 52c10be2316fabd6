"""Results in a notebook: their picture at once, and the page of `loupe view` in a frame or as a widget."""

from __future__ import annotations

import html
from importlib.resources import files
from typing import Any

from torchloupe.errors import LoupeError, need
from torchloupe.runs.found import Found
from torchloupe.runs.run import artifact
from torchloupe.view.report import report
from torchloupe.view.shown import still

MOST, TALL = 24, 640


def png(result: Any) -> bytes | None:
    """The still picture of one result, as `loupe draw` makes it; None for what cannot be drawn, so that its words are shown."""
    try:
        return still(artifact(result), "result")
    except LoupeError:
        return None


def frame(found: Found, most: int = MOST) -> str:
    """The page of a run in a frame of its own, with so many samples inside: needs no server and no extension."""
    page = html.escape(report([found.root], most), quote=True)
    return (
        f'<iframe srcdoc="{page}" title="results" style="width:100%;height:{TALL}px;border:1px solid #8888"></iframe>'
    )


def widget(found: Found, most: int = 60) -> Any:
    """The page of a run as a widget whose `selection` (run, view, id, question and so on) the notebook can read and set.

    Errors: MissingPackage without anywidget.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise need("anywidget", "notebook") from None

    class Results(anywidget.AnyWidget):  # type: ignore[misc]
        _esm = (files(__package__) / "widget.js").read_text(encoding="utf-8")
        page = traitlets.Unicode().tag(sync=True)
        tall = traitlets.Int(TALL).tag(sync=True)
        selection = traitlets.Dict().tag(sync=True)

    return Results(page=report([found.root], most))
