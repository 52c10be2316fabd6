"""A film of maps: GIF and MP4 that go from one to the next, a sheet of all as a still picture, the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchloupe import kinds, store
from torchloupe.errors import BadInput
from torchloupe.kinds.film import Film
from torchloupe.points import Points
from torchloupe.render.ink import Plain
from torchloupe.render.kinds import Wish
from torchloupe.render.look import Look
from torchloupe.render.mapped import colouring
from torchloupe.render.points import (
    Flat,
    check_format,
    figure_of,
    flatten,
    frame,
    legend_style,
    marks,
    panel,
    pixels,
    save,
    shapes_of,
)
from torchloupe.render.video import write_video

STEPS, REST, FPS = 14, 8, 16


def draw_film(
    path: str | Path,
    save_path: str | Path | None = None,
    look: Look | None = None,
    *,
    cmap: str | None = None,
    dpi: int = 150,
) -> Path:
    """Draw a film: a video (gif, mp4), the page (html), or all maps beside each other (any other format).

    save_path: a file; None: beside it, in the format look.save_ext (gif).
    """
    look = look or Look()
    name = check_format(Path(save_path).suffix if save_path else look.save_ext or "gif")
    out = Path(save_path) if save_path else Path(path).with_suffix(f".{name}")
    film = kinds.read(*store.load(path), str(path))
    if not isinstance(film, Film):
        raise BadInput(f"{path}: no film; loupe film makes one of the features of several checkpoints")
    for option in ("name_by", "images", "labels"):
        if getattr(look, option) is not None:
            raise BadInput(f"--{option.replace('_', '-')} has no effect on a film; leave it out")
    if name == "html":
        from torchloupe.render.page import write_page

        return write_page(film.at(len(film) - 1), out, look, cmap=cmap, film=film)
    if name in ("gif", "mp4"):
        return write_video(list(frames(film, look, cmap, min(dpi, 80))), out, FPS)
    return save(sheet(film, look, cmap=cmap, dpi=dpi), out, transparent=look.transparent)


def frames(film: Film, look: Look, cmap: str | None = None, dpi: int = 80) -> Sequence[np.ndarray]:
    """(h, w, 3) uint8 each: every map rests a while, then all points go to their places on the next."""
    times = [0.0] * REST
    for before in range(len(film) - 1):
        times += [before + step / STEPS for step in range(1, STEPS + 1)] + [before + 1.0] * REST
    drawn: dict[float, np.ndarray] = {}
    for time in times:
        if time not in drawn:
            title = " - ".join(part for part in (look.title, str(film.names[round(time)])) if part)
            drawn[time] = pixels(still(film, film.at(time), replace(look, title=title), cmap, dpi))
    return [drawn[time] for time in times]


def still(film: Film, points: Points, look: Look, cmap: str | None, dpi: int) -> Plain:
    """One moment: its points, in the limits and the colours of the whole film."""
    colours = colouring(points, look.color_by, cmap, look.color_as)
    figure, axes = figure_of(look, dpi)
    style = legend_style(look.legend, colours)
    shapes = shapes_of(points, look)
    panel(figure, axes, colours, shapes, "list" if style == "medians" else style)
    flat = among(film, points.feats, look)
    frame(axes, flat)
    marks(axes, flat, colours.rgb, shapes, look)
    return figure


def among(film: Film, places: np.ndarray, look: Look) -> Flat:
    """Places (N, e) on the paper, in the limits of all maps."""
    whole = flatten(np.concatenate([film.places.reshape(-1, film.places.shape[2]), places]), look.seen)
    depth = None if whole.depth is None else whole.depth[-len(places) :]
    return replace(whole, xy=whole.xy[-len(places) :], depth=depth)


def sheet(film: Film, look: Look, *, cmap: str | None = None, dpi: int = 150) -> Plain:
    """All maps beside each other, in the same limits, with what each keeps of its features."""
    points = film.at(len(film) - 1)
    colours = colouring(points, look.color_by, cmap, look.color_as)
    style = legend_style(look.legend, colours)
    shapes = shapes_of(points, look)
    figure, axes = figure_of(look, dpi)
    panel(figure, axes, colours, shapes, "list" if style == "medians" else style)
    box = axes.get_position()
    axes.remove()
    across = int(np.ceil(len(film) ** 0.5))
    down = -(-len(film) // across)
    wide, high, gap = box.width / across, box.height / down, 0.03
    told = film.record.get("maps", [{}] * len(film))
    for i in range(len(film)):
        row, column = divmod(i, across)
        place = (box.x0 + column * wide, box.y1 - (row + 1) * high, wide - 0.01, high - gap)
        small = figure.add_axes(place)
        flat = among(film, film.places[i], look)
        frame(small, flat)
        marks(
            small,
            flat,
            colours.rgb,
            shapes,
            replace(look, marker_size=look.marker_size or 25_000 / len(points) / len(film) + 1),
        )
        kept = told[i].get("kept_neighbours") if i < len(told) else None
        small.set_title(f"{film.names[i]}" + ("" if kept is None else f"  kept {kept:.2f}"), fontsize=8, pad=3)
    return figure


def redraw(paths: Sequence[Path], save_to: str | None, wish: Wish) -> list[Path]:
    """Draw films for `loupe draw`: save_to is a file or a folder, or None for beside each."""
    look, style = wish.look or Look(), wish.style
    written = []
    for path in paths:
        out = None if save_to is None else Path(save_to)
        if out is not None and (len(paths) > 1 or not out.suffix):
            out = out / f"{path.stem}.{look.save_ext or 'gif'}"
        cmap = None if style.cmap == "auto" else style.cmap
        written.append(draw_film(path, out, look, cmap=cmap, dpi=style.dpi))
    return written
