"""A map as one interactive page: opens from disk, needs no network. The bundles are built from web/ (THIRD_PARTY.txt)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from torchloupe.kinds.film import Film
from torchloupe.points import LABELS, Points
from torchloupe.render.look import Look
from torchloupe.render.mapped import GREY, Classes, Scale, colouring, find_pictures, named_clusters, thumbnail
from torchloupe.render.template import filled, script_json
from torchloupe.store import aside

MOST_THUMBNAILS = 10_000
SHEET = 16


def page(points: Points, look: Look | None = None, *, cmap: str | None = None, film: Film | None = None) -> str:
    """The page of a map as HTML: points by WebGL, hover, legend filter, lasso; 3-D turns and its view can be saved.

    feats (N, 1 | 2): a flat page; (N, 3 or more): a page that turns the first three. Every column can be coloured by.
    look.images: pictures of the samples, shown on hover; up to 10,000, spread evenly. film: the points are its last map; the page
    holds all of them, `frames` (T, N, dims) float32 in the same scale as `places`, and their names in the meta data's `frames`.
    look.name_by: the meta data's `clusters` are the names, middles (at, and the number of a point) and sizes of the map's clusters.
    """
    look = look or Look()
    pictures = find_pictures(points, look.images) if look.images else None
    coords = np.asarray(points.feats[:, :3], np.float32)
    moments = None if film is None else np.asarray(film.places[:, :, :3], np.float32)
    if coords.shape[1] == 1:
        coords = np.column_stack([coords, np.zeros(len(coords), np.float32)])
        moments = None if moments is None else np.concatenate([moments, np.zeros_like(moments)], 2)
    if coords.shape[1] == 2:
        every = coords if moments is None else moments.reshape(-1, 2)
        low, high = every.min(0), every.max(0)
        scale = 0.95 / (max(float((high - low).max()), 1e-9) / 2)
        coords = (coords - (low + high) / 2) * scale
        moments = None if moments is None else (moments - (low + high) / 2) * scale
    names = list(points.columns)
    chosen = look.color_by or (LABELS if LABELS in names else None)
    if chosen is not None and chosen not in names:
        points.column(chosen)
        names.append(chosen)
    columns = [colouring(points, name, cmap, look.color_as if name == chosen else "auto") for name in names]
    flat = coords.shape[1] == 2
    meta: dict[str, Any] = {
        "title": look.title or "",
        "count": len(points),
        "dims": coords.shape[1],
        "view": asdict(look.seen),
        "pointSize": float(np.clip(250 / len(points) ** 0.4, 1.5, 8)),
        "colorBy": chosen,
        "ids": None if _numbered(points.ids) else points.ids.tolist(),
        "columns": [_column(column) for column in columns],
    }
    blocks = {"places": coords.astype("<f4")}
    if look.name_by is not None:
        found, shown = named_clusters(points, look.name_by, look.images)
        meta["clusters"] = [
            {"name": group.name, "at": coords[group.medoid].tolist(), "count": len(group.rows), "middle": group.medoid}
            for group in found
            if shown is None or shown[group.medoid] is not None
        ]
    if film is not None and moments is not None:
        meta["frames"], blocks["frames"] = film.names.tolist(), moments.astype("<f4")
    for i, column in enumerate(columns):
        blocks[f"column{i}"] = column.values.astype("<f8") if isinstance(column, Scale) else column.codes.astype("<u4")
    if pictures is not None:
        meta["thumbs"], blocks["thumbs"] = _thumbnails(pictures)
    data = f'<script id="meta" type="application/json">{script_json(meta)}</script>\n' + "\n".join(
        f'<script id="{name}" type="text/plain">{_base64(block.tobytes())}</script>' for name, block in blocks.items()
    )
    places = {"style": _read("page.css"), "data": data, "script": _bundle("page2d.js" if flat else "page3d.js")}
    return filled(_read("page.html"), places)


def write_page(
    points: Points, path: Path, look: Look | None = None, *, cmap: str | None = None, film: Film | None = None
) -> Path:
    """Write the page of a map, or of a film; whole or absent."""
    text = page(points, look, cmap=cmap, film=film)
    with aside(path) as (draft,):
        draft.write_text(text, encoding="utf-8")
    return path


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _bundle(name: str) -> str:
    """Our own script, which cannot end the element it stands in."""
    return _read(name).replace("</", "<\\/")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _numbered(ids: np.ndarray) -> bool:
    return bool((ids == np.arange(len(ids)).astype(str)).all())


def _column(column: Classes | Scale) -> dict[str, Any]:
    if isinstance(column, Scale):
        colours = matplotlib.colormaps[column.cmap](np.linspace(0, 1, 256))
        palette = [*(to_hex(colour) for colour in colours), to_hex(GREY)]  # the last is for what is missing
        about = {"name": column.title, "kind": "number", "low": column.low, "high": column.high, "dates": column.dates}
        return {**about, "palette": palette, "missing": int((~np.isfinite(column.values)).sum())}
    counts = np.bincount(column.codes, minlength=len(column.names)).tolist()
    palette = [to_hex(colour) for colour in column.colours]
    return {"name": column.title, "kind": "category", "names": column.names, "counts": counts, "palette": palette}


def _thumbnails(pictures: Sequence[Path | None], side: int = 64) -> tuple[dict[str, Any], np.ndarray]:
    """Sheets of 16 x 16 pictures as JPEG, and the cell of every sample, -1 for none."""
    index = np.full(len(pictures), -1, "<i4")
    there = [i for i, path in enumerate(pictures) if path is not None]
    there = there[:: max(1, -(-len(there) // MOST_THUMBNAILS))]
    sheets = []
    for first in range(0, len(there), SHEET * SHEET):
        sheet = Image.new("RGB", (SHEET * side, SHEET * side), "white")
        for cell, i in enumerate(there[first : first + SHEET * SHEET]):
            picture = thumbnail(pictures[i], side)  # type: ignore[arg-type]
            left, top = cell % SHEET * side, cell // SHEET * side
            sheet.paste(
                Image.fromarray(picture), (left + (side - picture.shape[1]) // 2, top + (side - picture.shape[0]) // 2)
            )
            index[i] = first + cell
        raw = io.BytesIO()
        sheet.save(raw, "JPEG", quality=80)
        sheets.append("data:image/jpeg;base64," + _base64(raw.getvalue()))
    return {"side": side, "across": SHEET, "sheets": sheets}, index
