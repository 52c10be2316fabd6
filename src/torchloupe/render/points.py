"""Pictures of points for a paper: 2-D and 3-D scatters, two maps side by side, a turntable."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch
from PIL import Image

from torchloupe.errors import BadInput, LoupeWarning, need
from torchloupe.methods.clusters import medoid
from torchloupe.points import Points
from torchloupe.render.beside import Note, write_beside
from torchloupe.render.ink import Plain
from torchloupe.render.kinds import Wish
from torchloupe.render.look import Look, View
from torchloupe.render.mapped import (
    PICTURES,
    Classes,
    Scale,
    categories,
    class_colours,
    colouring,
    find_pictures,
    named_clusters,
    read_map,
    thumbnail,
)
from torchloupe.render.video import write_video
from torchloupe.store import aside

LARGEST = 20_000
FORMATS = ("png", "jpg", "jpeg", "bmp", "tiff", "tif", "svg", "pdf", "gif", "mp4", "html")
MARKERS = "osD^vP*X<>ph"
LISTED, AT_MEDIANS = 20, 100
Shapes = tuple[tuple[str, ...], np.ndarray, str]


# --- the view -------------------------------------------------------------------------------------------------------


def directions(view: View) -> np.ndarray:
    """(3, 3): the directions in space of right, up, and towards the viewer."""
    e, a = math.radians(view.elev), math.radians(view.azim)
    se, ce, sa, ca = math.sin(e), math.cos(e), math.sin(a), math.cos(a)
    return np.array([[-sa, ca, 0], [-se * ca, -se * sa, ce], [ce * ca, ce * sa, se]])


@dataclass(frozen=True)
class Flat:
    """Points on the paper: xy (N, 2); depth (N,) towards the viewer, or None; box edges to draw; limits."""

    xy: np.ndarray
    depth: np.ndarray | None
    edges: np.ndarray
    limits: tuple[float, float, float, float]


def flatten(coords: np.ndarray, view: View) -> Flat:
    """Places on the paper of a map of any dimension: 1 on a zero axis, 2 as they are, 3 turned, more: the first three."""
    coords = np.asarray(coords[:, :3], np.float64)
    if coords.shape[1] < 3:
        xy = coords if coords.shape[1] == 2 else np.column_stack([coords[:, 0], np.zeros(len(coords))])
        low, high = xy.min(0), xy.max(0)
        pad = 0.05 * max((high - low).max(), 1e-9)
        return Flat(xy, None, np.empty((0, 2, 2)), (low[0] - pad, high[0] + pad, low[1] - pad, high[1] + pad))
    low, high = coords.min(0), coords.max(0)
    centre, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-9)
    axes = directions(view)
    turned = (coords - centre) @ axes.T
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * half
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8) if np.sum(corners[i] != corners[j]) == 1]
    edges = np.array([[corners[i] @ axes[:2].T, corners[j] @ axes[:2].T] for i, j in pairs])
    reach = float(np.linalg.norm(half)) / view.zoom
    return Flat(turned[:, :2], turned[:, 2], edges, (-reach, reach, -reach, reach))


# --- a picture ------------------------------------------------------------------------------------------------------


def scatter(points: Points, look: Look | None = None, *, cmap: str | None = None, dpi: int = 150) -> Plain:
    """A figure of a map: feats (N, 1 | 2 | 3 | more) as places, a column as colour, a second one as marker shape.

    cmap: a colour map of matplotlib; None: distinct colours for categories, viridis for numbers.
    """
    look = look or Look()
    if not len(points):
        raise BadInput("no points to draw")
    if not np.isfinite(points.feats).all():
        raise BadInput("some places are NaN or infinite; project again")
    colours = colouring(points, look.color_by, cmap, look.color_as)
    pictures = find_pictures(points, look.images) if look.images and look.name_by != PICTURES else None
    flat = flatten(points.feats, look.seen)
    style = legend_style(look.legend, colours)
    if style == "wheel" and isinstance(colours, Classes):
        colours = _by_direction(colours, flat.xy, cmap)
    figure, axes = figure_of(look, dpi)
    shapes = shapes_of(points, look)
    panel(figure, axes, colours, shapes, style)
    frame(axes, flat)
    radius = marks(axes, flat, colours.rgb, shapes, look)
    if pictures is not None:
        radius = max(radius, _thumbnails(figure, axes, flat, colours.rgb, pictures) / 2)
    if look.name_by is not None:
        _clusters(figure, axes, points, flat, colours.rgb, look, radius)
    elif style == "medians" and isinstance(colours, Classes):
        _names(figure, axes, flat, colours, radius)
    return figure


def figure_of(look: Look, dpi: int) -> tuple[Plain, Any]:
    """An empty figure with its title, and axes in what is left. Errors: BadInput for one that is too large."""
    if max(look.fig_size) * dpi > LARGEST:
        raise BadInput(
            f"{look.fig_size[0]:g} x {look.fig_size[1]:g} inches at {dpi} dpi: more than {LARGEST:,} pixels a side"
        )
    figure = Plain(figsize=look.fig_size, dpi=dpi)
    FigureCanvasAgg(figure)
    top = 0.98
    if look.title:
        title = figure.suptitle(look.title, y=0.985, va="top", fontsize=12)
        top = title.get_window_extent().y0 / figure.bbox.height - 0.015
    return figure, figure.add_axes((0.02, 0.02, 0.96, top - 0.02))


def frame(axes: Any, flat: Flat) -> None:
    """Limits of equal scale in both directions, no ticks (the axes of a map mean nothing), the box of a 3-D map."""
    left, right, bottom, top = _limits(flat, axes.get_window_extent())
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.patch.set_alpha(0)
    if flat.depth is not None:
        axes.set_frame_on(False)
    elif not np.ptp(flat.xy[:, 1]):
        axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    for spine in axes.spines.values():
        spine.set_color("0.75")
    for line in flat.edges:
        axes.plot(line[:, 0], line[:, 1], color="0.8", linewidth=0.8, zorder=0)


def shapes_of(points: Points, look: Look) -> Shapes:
    """Names, the code of each point, and the column's title; one shape for all where no column is asked for."""
    column = look.shape_by
    if column is None:
        return ("",), np.zeros(len(points), int), ""
    names, codes = categories(points.column(column))
    if len(names) > len(MARKERS):
        raise BadInput(f"column {column!r} has {len(names)} values; there are {len(MARKERS)} marker shapes")
    if len(points) > look.dense:
        warnings.warn(f"above {look.dense:,} points density is drawn: marker shapes are left out", LoupeWarning, 3)
        return ("",), np.zeros(len(points), int), ""
    return names, codes, column


def marks(axes: Any, flat: Flat, rgb: np.ndarray, shapes: Shapes, look: Look) -> float:
    """Draws the points; the radius of the largest marker in pixels."""
    total = len(flat.xy)
    if total > look.dense:
        _density(axes, flat, rgb, look)
        return 2.0
    size = look.marker_size or float(np.clip(25_000 / total, 2, 50))
    alpha = look.alpha or (0.9 if total < 2000 else 0.7)
    order = np.random.default_rng(0).permutation(total) if flat.depth is None else np.argsort(flat.depth, kind="stable")
    sizes = np.full(total, size)
    if flat.depth is not None:
        near = (flat.depth - flat.depth.min()) / max(float(np.ptp(flat.depth)), 1e-9)
        sizes = size * (0.55 + 0.9 * near)
    colours = np.column_stack([rgb, np.full(total, alpha)])
    for code in range(len(shapes[0])):
        mine = order[shapes[1][order] == code]
        axes.scatter(
            *flat.xy[mine].T,
            s=sizes[mine],
            c=colours[mine],
            marker=MARKERS[code],
            linewidths=0,
            rasterized=total > 5000,
        )
    return float(sizes.max()) ** 0.5 / 2 * axes.figure.dpi / 72


def _density(axes: Any, flat: Flat, rgb: np.ndarray, look: Look) -> None:
    """Pixels instead of markers: hue is the mean colour of the points in a pixel, strength the log of their number."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    wide = int(np.clip(2.2 * len(flat.xy) ** 0.5, 200, max(200, axes.get_window_extent().width)))
    high = max(1, round(wide * (top - bottom) / (right - left)))
    column = ((flat.xy[:, 0] - left) / (right - left) * wide).astype(int)
    row = ((flat.xy[:, 1] - bottom) / (top - bottom) * high).astype(int)
    seen = (column >= 0) & (column < wide) & (row >= 0) & (row < high)
    cell = row[seen] * wide + column[seen]
    count = np.bincount(cell, minlength=wide * high)
    mean = [np.bincount(cell, rgb[seen, i], wide * high) / np.maximum(count, 1) for i in range(3)]
    strength = (
        np.log1p(count) / np.log1p(max(1.0, float(np.quantile(count[count > 0], 0.98)))) if count.any() else count
    )
    alpha = np.where(count > 0, 0.25 + 0.75 * strength.clip(0, 1), 0) * (look.alpha or 1)
    image = np.stack([*mean, alpha], -1).reshape(high, wide, 4).clip(0, 1)
    axes.imshow(image, extent=(left, right, bottom, top), origin="lower", interpolation="nearest", aspect="auto")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _limits(flat: Flat, box: Any) -> tuple[float, float, float, float]:
    """Limits that show all of a map in a box of pixels, the same scale across and up."""
    left, right, bottom, top = flat.limits
    scale = max((right - left) / box.width, (top - bottom) / box.height)
    x, y, w, h = (left + right) / 2, (bottom + top) / 2, scale * box.width / 2, scale * box.height / 2
    return x - w, x + w, y - h, y + h


# --- legends --------------------------------------------------------------------------------------------------------


def legend_style(asked: str, colours: Classes | Scale) -> str:
    """Where the classes are named: list, medians, wheel, none; bar for numbers."""
    if isinstance(colours, Scale):
        return "none" if asked == "none" else "bar"
    if asked != "auto":
        return asked
    count = colours.count
    if count <= 1 and colours.gaps:
        return "list"
    return "none" if count == 1 else "list" if count <= LISTED else "medians" if count <= AT_MEDIANS else "wheel"


def _by_direction(colours: Classes, xy: np.ndarray, cmap: str | None) -> Classes:
    """Hue by the direction in which a class lies from the middle of the map, so that near classes are alike."""
    apart = medians(xy, colours.codes, colours.count) - np.median(xy, 0)
    order = np.argsort(np.arctan2(apart[:, 1], apart[:, 0]), kind="stable")
    turned = colours.colours.copy()
    turned[order] = class_colours(len(order), cmap or "hsv")
    return replace(colours, colours=turned)


def medians(xy: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """(count, 2): the coordinate-wise median of every class."""
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(count + 1))
    return np.array([np.median(xy[order[a:b]], 0) if b > a else np.zeros(2) for a, b in pairwise(edges)])


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def panel(figure: Plain, axes: Any, colours: Classes | Scale, shapes: Shapes, style: str) -> None:
    """What stands to the right of the plot; the plot is narrowed by as much as it needs."""
    box = axes.get_position()
    if style == "bar" and isinstance(colours, Scale):
        right = 0.77 if colours.dates else 0.84  # dates are long words
        axes.set_position((box.x0, box.y0, right - box.x0, box.height))
        mappable = matplotlib.cm.ScalarMappable(
            matplotlib.colors.Normalize(colours.low, colours.high), matplotlib.colormaps[colours.cmap]
        )
        side = figure.add_axes((right + 0.02, box.y0 + 0.2 * box.height, 0.025, 0.6 * box.height))
        bar = figure.colorbar(mappable, cax=side)
        bar.set_label(colours.title)
        if colours.dates:
            ticks = np.linspace(colours.low, colours.high, 5).tolist()
            bar.set_ticks(ticks, labels=colours.words(ticks), fontsize=7)
    groups = []
    if style in ("list", "wheel") and isinstance(colours, Classes):
        shown, how = list(range(len(colours.names))), ""
        if style == "wheel":
            shown, how = colours.named(LISTED)
        title = f"{colours.title}: {how} of {colours.count:,}" if how else colours.title
        rows = [(_short(colours.names[i]), {"color": tuple(colours.colours[i]), "marker": "o"}) for i in shown]
        groups.append((title, rows))
    if shapes[2]:
        rows = [(_short(name), {"color": "0.35", "marker": MARKERS[i]}) for i, name in enumerate(shapes[0])]
        groups.append((shapes[2], rows))
    if groups:
        _list(figure, axes, groups, wheel=style == "wheel")


def _list(figure: Plain, axes: Any, groups: list[tuple[str, list[tuple[str, dict]]]], wheel: bool) -> None:
    """Legends one below the other at the right edge, in letters small enough to fit."""
    box = axes.get_position()
    size = np.array([figure.bbox.width, figure.bbox.height])
    ring = 0.16 if wheel else 0.0
    for font, columns in ((9, 1), (8, 1), (7, 1), (6, 1), (6, 2), (5, 2), (4, 3)):
        made, y, wide = [], box.y1 - ring * size[0] / size[1], ring
        for title, rows in groups:
            handles = [Line2D([], [], linestyle="", markersize=font * 0.7, **mark) for _, mark in rows]
            legend = figure.legend_of(
                handles,
                [name for name, _ in rows],
                _short(title, 40),
                loc="upper right",
                bbox_to_anchor=(0.99, y),
                fontsize=font,
                title_fontsize=font,
                ncols=columns,
                frameon=False,
                borderpad=0,
                borderaxespad=0,
                handletextpad=0.3,
            )
            extent = legend.get_window_extent()
            y, wide = y - extent.height / size[1] - 0.02, max(wide, extent.width / size[0])
            made.append(legend)
        if y >= box.y0 - 0.02 and wide < 0.45:
            break
        if (font, columns) != (4, 3):
            for legend in made:
                legend.remove()
    axes.set_position((box.x0, box.y0, 0.99 - wide - 0.02 - box.x0, box.height))
    if wheel:
        side = figure.add_axes(
            (0.99 - wide / 2 - 0.07, box.y1 - 0.14 * size[0] / size[1], 0.14, 0.14 * size[0] / size[1]),
            projection="polar",
        )
        turn = np.linspace(-np.pi, np.pi, 181)
        side.pcolormesh(turn, [0.6, 1], np.linspace(0, 1, 180)[None], cmap="hsv")
        side.set_ylim(0, 1)
        side.axis("off")


def _names(figure: Plain, axes: Any, flat: Flat, colours: Classes, radius: float) -> None:
    """The name of every class beside it, largest first."""
    names, anchors = [], _anchors(flat.xy, colours.codes, colours.count)
    for code in colours.largest:
        names.append(Note(_short(colours.names[code]), anchors[code], tuple(colours.colours[code])))
    _noted(figure, axes, names, flat.xy, radius)


def _anchors(xy: np.ndarray, codes: np.ndarray, count: int) -> list[tuple[float, float]]:
    """Of every class the point of its own that is nearest to its median."""
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(count + 1))
    return [tuple(xy[medoid(xy, order[a:b])].tolist()) if b > a else (0.0, 0.0) for a, b in pairwise(edges)]


def _noted(figure: Plain, axes: Any, notes: Sequence[Note], xy: np.ndarray, radius: float) -> None:
    lost = write_beside(figure, axes, notes, xy, radius)
    if lost:
        figure.text(0.98, 0.005, f"{lost} names had no room", fontsize=7, ha="right", color="0.4")


def _clusters(figure: Plain, axes: Any, points: Points, flat: Flat, rgb: np.ndarray, look: Look, radius: float) -> None:
    """The clusters of the map, named beside them: by a column, or by the picture of the point in their middle."""
    found, pictures = named_clusters(points, str(look.name_by), look.images)
    if not found:
        warnings.warn("no clusters on this map: its points stand too evenly to be parted", LoupeWarning, 3)
        return
    notes = []
    for group in found:
        colour = tuple(np.median(rgb[group.rows], 0).tolist())
        picture = None if pictures is None else pictures[group.medoid]
        if picture is not None or group.name:
            at = tuple(flat.xy[group.medoid].tolist())
            notes.append(Note(_short(group.name), at, colour, picture))
    _noted(figure, axes, notes, flat.xy, radius)


# --- thumbnails -----------------------------------------------------------------------------------------------------


def _thumbnails(figure: Plain, axes: Any, flat: Flat, rgb: np.ndarray, pictures: Sequence[Path | None]) -> float:
    """Pictures as markers: in a fixed random order, each where it overlaps none before it. Their side in pixels."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    side = max(12.0, min(figure.bbox.width, figure.bbox.height) / 24)
    middle, apart = axes.transData.transform(flat.xy), 1.25 * side
    taken: dict[tuple[int, int], np.ndarray] = {}
    for i in np.random.default_rng(0).permutation(len(flat.xy)):
        path = pictures[i]
        x, y = (middle[i] // apart).astype(int)
        near = (taken.get((x + right, y + up)) for right in (-1, 0, 1) for up in (-1, 0, 1))
        if path is None or any(other is not None and (abs(other - middle[i]) < apart).all() for other in near):
            continue
        taken[x, y] = middle[i]
        image = OffsetImage(thumbnail(path, 64), zoom=side / 64 * 72 / figure.dpi, interpolation="bilinear")
        edge = {"edgecolor": tuple(rgb[i]), "linewidth": 1.5, "boxstyle": "square,pad=0.05"}
        axes.add_artist(AnnotationBbox(image, flat.xy[i], frameon=True, pad=0, bboxprops=edge))
    return side


# --- two maps -------------------------------------------------------------------------------------------------------


def side_by_side(
    first: Points,
    second: Points,
    moved: np.ndarray,
    names: tuple[str, str],
    look: Look | None = None,
    *,
    cmap: str | None = None,
    dpi: int = 150,
    caption: str = "",
) -> Plain:
    """Two maps of the same samples, row for row, with lines between the places of the rows in `moved`."""
    look = look or Look(fig_size=(14.0, 7.5))
    both = np.concatenate([first.feats, second.feats])
    shared = flatten(both, look.seen)
    halves = [replace(shared, xy=part, depth=None) for part in (shared.xy[: len(first)], shared.xy[len(first) :])]
    colours = colouring(first, look.color_by, cmap, look.color_as)
    plain: Shapes = (("",), np.zeros(len(first), int), "")
    style = legend_style(look.legend, colours)
    figure, axes = figure_of(look, dpi)
    panel(figure, axes, colours, plain, style)
    box = axes.get_position()
    axes.remove()
    wide = (box.width - 0.03) / 2
    panels = [figure.add_axes((box.x0 + i * (wide + 0.03), 0.07, wide, box.y1 - 0.12)) for i in (0, 1)]
    for place, flat, name in zip(panels, halves, names, strict=True):
        frame(place, flat)
        radius = marks(place, flat, colours.rgb, plain, look)
        place.set_title(name, fontsize=10)
    for row in moved:
        line = ConnectionPatch(halves[0].xy[row], halves[1].xy[row], "data", "data", axesA=panels[0], axesB=panels[1])
        line.set(color="0.25", linewidth=0.6, alpha=0.6)
        figure.add_artist(line)
    if style == "medians" and isinstance(colours, Classes):
        for place, flat in zip(panels, halves, strict=True):
            _names(figure, place, flat, colours, radius)
    figure.text(0.5 * (box.x0 + box.x1), 0.02, caption, ha="center", fontsize=9)
    return figure


# --- files ----------------------------------------------------------------------------------------------------------


def check_format(suffix: str) -> str:
    """The format without its dot, or BadInput."""
    name = suffix.lower().lstrip(".")
    if name not in FORMATS:
        raise BadInput(f"format {suffix!r} cannot be written; expected one of {', '.join(FORMATS)}")
    if name == "mp4" and find_spec("imageio_ffmpeg") is None:
        raise need("imageio-ffmpeg", "video")
    return name


def save(figure: Plain, path: Path, *, transparent: bool = False) -> Path:
    """Write a figure in the format of its suffix; whole or absent. Formats without transparency get white."""
    name = check_format(path.suffix)
    with aside(path) as (draft,):
        if name in ("bmp", "jpg", "jpeg"):
            Image.fromarray(pixels(figure)).save(draft, quality=92)
        else:
            with matplotlib.rc_context({"svg.hashsalt": "loupe"}):
                figure.savefig(draft, format=name, dpi=figure.dpi, transparent=transparent, metadata=_undated(name))
    return path


def _undated(name: str) -> Mapping[str, Any] | None:
    """The same picture twice is the same file: no date inside."""
    return {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(name)


def pixels(figure: Plain) -> np.ndarray:
    """A figure as (h, w, 3) uint8."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def turntable(
    points: Points,
    path: Path,
    look: Look,
    *,
    cmap: str | None = None,
    dpi: int = 100,
    frames: int = 72,
    seconds: float = 6.0,
) -> Path:
    """A 3-D map turned once around its upright axis, as .gif or .mp4."""
    name = check_format(path.suffix)
    if name not in ("gif", "mp4"):
        raise BadInput(f"{path}: a turntable is written as .gif or .mp4")
    if points.feats.shape[1] < 3:
        raise BadInput(
            f"a turntable needs a map of 3 dimensions, this one has {points.feats.shape[1]}; project with -e 3"
        )
    turned = []
    for i in range(frames):
        view = replace(look.seen, azim=look.seen.azim + 360 * i / frames)
        turned.append(pixels(scatter(points, replace(look, view=str(view)), cmap=cmap, dpi=dpi)))
    return write_video(turned, path, frames / seconds)


def draw_points(
    path: str | Path,
    save_path: str | Path | None = None,
    look: Look | None = None,
    *,
    cmap: str | None = None,
    dpi: int = 150,
) -> Path:
    """Draw a points file: a picture (png jpg jpeg bmp tiff tif svg pdf), a turntable (gif mp4), or a page (html).

    path: .npz, .npy or .parquet. save_path: a file; None: beside it, in the format look.save_ext (png). A view saved
    beside it by adjust-3d (NAME.view.json) is used unless look has one.
    """
    look = look or Look()
    name = check_format(Path(save_path).suffix if save_path else look.save_ext or "png")
    out = Path(save_path) if save_path else Path(path).with_suffix(f".{name}")
    points = read_map(path, labels=look.labels)
    saved = Path(path).with_suffix(".view.json")
    if look.view is None and saved.is_file():
        look = replace(look, view=str(saved))
    if name == "html":
        from torchloupe.render.page import write_page

        return write_page(points, out, look, cmap=cmap)
    if name in ("gif", "mp4"):
        return turntable(points, out, look, cmap=cmap, dpi=min(dpi, 100))
    return save(scatter(points, look, cmap=cmap, dpi=dpi), out, transparent=look.transparent)


def redraw(paths: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Draw points files for `loupe draw`: save is a file or a folder, or None for beside each; the wish gives its look, and cmap and dpi."""
    look, style = wish.look or Look(), wish.style
    name = look.save_ext or style.format
    written = []
    for path in paths:
        out = None if save is None else Path(save)
        if out is not None and (len(paths) > 1 or not out.suffix):
            out = out / f"{path.stem}.{name}"
        cmap = None if style.cmap == "auto" else style.cmap
        written.append(draw_points(path, out, replace(look, save_ext=name), cmap=cmap, dpi=style.dpi))
    return written
