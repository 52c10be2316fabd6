"""Names and small pictures beside the groups of a map: never over a point, nor over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patheffects import withStroke

from torchloupe.errors import legible
from torchloupe.render.ink import TEXT, Plain
from torchloupe.render.mapped import lab, thumbnail

SIZES = (9.0, 8.0, 7.0, 6.0, 5.0)
WIDER = 1.18
CELL = 2
"""Pixels of the figure a side of what is taken or free."""


@dataclass(frozen=True)
class Note:
    """What stands beside a group: a text or a picture, the point (x, y) of the map that it belongs to, its colour."""

    text: str
    at: tuple[float, float]
    colour: tuple[float, float, float] = (0.2, 0.2, 0.2)
    picture: Path | None = None


class Room:
    """Which cells of a plot are taken: (h, w) bool, the first row at the bottom."""

    def __init__(self, wide: int, high: int) -> None:
        self.taken = np.zeros((max(1, high), max(1, wide)), bool)

    def points(self, pixels: np.ndarray, radius: float) -> None:
        """Take squares around points (N, 2), x and y."""
        high, wide = self.taken.shape
        at = np.round(pixels).astype(int)
        at = at[(at >= 0).all(1) & (at < (wide, high)).all(1)]
        seen = np.zeros((high + 1, wide + 1), np.int32)
        r = max(0, round(radius))
        low, top = (at - r).clip(0), np.minimum(at + r + 1, (wide, high))
        np.add.at(seen, (low[:, 1], low[:, 0]), 1)
        np.add.at(seen, (top[:, 1], top[:, 0]), 1)
        np.add.at(seen, (low[:, 1], top[:, 0]), -1)
        np.add.at(seen, (top[:, 1], low[:, 0]), -1)
        self.taken |= seen.cumsum(0).cumsum(1)[:high, :wide] > 0

    def place(self, at: np.ndarray, wide: float, high: float) -> tuple[float, float] | None:
        """The free box of this size nearest to a point, taken from now on: its lower left corner; None where there is none."""
        w, h = int(np.ceil(wide)), int(np.ceil(high))
        for reach in (40, 120, max(self.taken.shape)):
            corner = self._free(at, w, h, reach)
            if corner is not None:
                break
        if corner is None:
            return None
        left, bottom = corner
        self.taken[bottom : bottom + h, left : left + w] = True
        # nor is the line to it written over
        edge = np.clip(at, corner, (left + w, bottom + h))
        along = np.linspace(0, 1, 2 + int(2 * np.hypot(*(edge - at))))[:, None]
        x, y = np.round(edge + along * (at - edge)).astype(int).T
        rows, columns = self.taken.shape
        self.taken[y.clip(0, rows - 1), x.clip(0, columns - 1)] = True
        return float(left), float(bottom)

    def _free(self, at: np.ndarray, w: int, h: int, reach: int) -> tuple[int, int] | None:
        """The same among the cells within reach of the point."""
        around = np.array([reach + w, reach + h])
        low, top = np.maximum(np.round(at).astype(int) - around, 0), np.round(at).astype(int) + around
        part = self.taken[low[1] : max(0, top[1]), low[0] : max(0, top[0])]
        if part.shape[0] < h or part.shape[1] < w:
            return None
        whole = np.zeros((part.shape[0] + 1, part.shape[1] + 1), np.int32)
        whole[1:, 1:] = part.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
        held = whole[h:, w:] - whole[:-h, w:] - whole[h:, :-w] + whole[:-h, :-w]
        y, x = np.arange(held.shape[0]) + low[1], np.arange(held.shape[1]) + low[0]
        # how far the point is from the box itself, not from its middle: long names are no farther away than short ones
        right = np.maximum(np.maximum(x - at[0], at[0] - (x + w)), 0)
        up = np.maximum(np.maximum(y - at[1], at[1] - (y + h)), 0)
        middle = np.hypot((x + w / 2 - at[0])[None], (y + h / 2 - at[1])[:, None])
        far = np.hypot(right[None], up[:, None]) + 0.05 * middle
        far[held > 0] = np.inf
        best = np.unravel_index(int(far.argmin()), far.shape)
        return (int(x[best[1]]), int(y[best[0]])) if np.isfinite(far[best]) else None


def write_beside(figure: Plain, axes: Any, notes: Sequence[Note], xy: np.ndarray, radius: float) -> int:
    """Write notes beside the points xy (N, 2) of a plot, drawn with markers of so many pixels; how many had no room.

    The letters are as large as lets all names in, from 9 points down to 5; where that is not enough the map is drawn smaller.
    """
    best: tuple[int, float, int, list[Any]] | None = None
    across, up = axes.get_xlim(), axes.get_ylim()
    for wider in range(4):
        for size in SIZES:
            if wider:
                _widen(axes, across, up, WIDER**wider)
            places = _places(figure, axes, notes, xy, radius, size, len(notes) if best is None else best[0] - 1)
            lost = sum(place is None for place in places)
            if best is None or lost < best[0]:
                best = lost, size, wider, places
            if not lost:
                break
        if best is not None and not best[0]:
            break
    assert best is not None
    lost, size, wider, places = best
    _widen(axes, across, up, WIDER**wider)
    for note, place in zip(notes, places, strict=True):
        if place is not None:
            _write(figure, axes, note, place, size)
    return lost


def _widen(axes: Any, across: tuple[float, float], up: tuple[float, float], factor: float) -> None:
    for limits, (low, high) in ((axes.set_xlim, across), (axes.set_ylim, up)):
        middle, half = (low + high) / 2, (high - low) / 2 * factor
        limits(middle - half, middle + half)


def _places(
    figure: Plain, axes: Any, notes: Sequence[Note], xy: np.ndarray, radius: float, size: float, most: int
) -> list[tuple[float, float, float, float] | None]:
    """(left, bottom, width, height) of each note in pixels of the figure; given up when more than `most` have no room."""
    frame = axes.get_window_extent()
    room = Room(int(frame.width / CELL), int(frame.height / CELL))
    corner = np.array([frame.x0, frame.y0])
    room.points((axes.transData.transform(xy) - corner) / CELL, radius / CELL)
    found: list[tuple[float, float, float, float] | None] = []
    for note in notes:
        wide, high = _extent(figure, axes, note, size)
        at = (axes.transData.transform(note.at) - corner) / CELL
        place = room.place(at, (wide + 4) / CELL, (high + 2) / CELL)
        found.append(
            None if place is None else (place[0] * CELL + corner[0] + 2, place[1] * CELL + corner[1] + 1, wide, high)
        )
        if found.count(None) > most:
            return found + [None] * (len(notes) - len(found))
    return found


def _side(figure: Plain, size: float) -> float:
    return 4.5 * size * figure.dpi / 72


def _extent(figure: Plain, axes: Any, note: Note, size: float) -> tuple[float, float]:
    if note.picture is not None:
        high, wide = thumbnail(note.picture, 64).shape[:2]
        return _side(figure, size) * wide / 64 + 4, _side(figure, size) * high / 64 + 4
    text = axes.text(0, 0, legible(note.text), fontsize=size, **TEXT)
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def _write(figure: Plain, axes: Any, note: Note, place: tuple[float, float, float, float], size: float) -> None:
    left, bottom, wide, high = place
    back = axes.transData.inverted()
    middle = back.transform((left + wide / 2, bottom + high / 2))
    at = axes.transData.transform(note.at)
    edge = np.clip(at, (left, bottom), (left + wide, bottom + high))
    ink = dark(note.colour)
    if np.hypot(*(edge - at)) > 3:
        (line,) = axes.plot(*zip(back.transform(edge), note.at, strict=True), color=ink, linewidth=0.7, zorder=4)
        line.set_path_effects([withStroke(linewidth=1.7, foreground="white")])
    if note.picture is not None:
        image = OffsetImage(
            thumbnail(note.picture, 64), zoom=_side(figure, size) / 64 * 72 / figure.dpi, interpolation="bilinear"
        )
        frame = {"edgecolor": note.colour, "linewidth": 1.5, "boxstyle": "square,pad=0.05"}
        axes.add_artist(AnnotationBbox(image, middle, frameon=True, pad=0, bboxprops=frame))
        return
    text = axes.text(*middle, legible(note.text), fontsize=size, ha="center", va="center", zorder=5, color=ink, **TEXT)
    text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def dark(colour: Sequence[float]) -> tuple[float, float, float]:
    """A colour dark enough to be read on white: CIELAB's lightness at most 45."""
    held = np.asarray(colour, float)
    while lab(held[None])[0, 0] > 45:
        held = held * 0.93
    return tuple(held.tolist())  # type: ignore[return-value]
