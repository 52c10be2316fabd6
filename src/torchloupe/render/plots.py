"""Figures for papers: a labelled grid of pictures and its colour bars, laid out in inches so that no text overlaps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from torchloupe.errors import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

PAGE = 7.0
WIDEST, TALLEST, NARROWEST = 1.7, 2.2, 0.75
GAP, EDGE, BAND, BAR = 0.05, 0.04, 0.14, 0.55
TEXT, SMALL = 8.0, 7.0
INK = "#1a1a1a"
FONT = "DejaVu Sans"
SAVING: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "torchloupe"}


@dataclass(frozen=True)
class Cell:
    """One picture of a grid: (h, w, 3) uint8, with a small label in its corner where there is something to say."""

    image: np.ndarray
    label: str = ""


@dataclass(frozen=True)
class Group:
    """Rows under one heading. lead stands left of the first row; a row is (label, cells), None leaves a cell blank."""

    heading: str
    rows: Sequence[tuple[str, Sequence[Cell | None]]]
    lead: Cell | None = None


@dataclass(frozen=True)
class Bar:
    """A colour bar: (256, 3) colours and the words at its ticks from low to high."""

    table: np.ndarray
    ticks: Sequence[str]


def grid(groups: Sequence[Group], titles: Sequence[str], bars: Sequence[Bar] = (), note: str = "") -> Figure:
    """A figure of groups of rows under column titles, not wider than a page of a paper as long as cells stay readable.

    titles: one a column. note: a small line at the lower right. All pictures have the shape of the first.
    """
    from torchloupe.render.ink import Plain

    cells = [cell for group in groups for _, row in group.rows for cell in row if cell is not None]
    tall, wide = (cells or [group.lead for group in groups if group.lead])[0].image.shape[:2]
    leads = any(group.lead is not None for group in groups)
    labels = [label for group in groups for label, _ in group.rows]
    columns = len(titles) + leads
    room = PAGE - 2 * EDGE - len(bars) * BAR - 2 * BAND - (columns + 5) * GAP
    width = max(min(WIDEST, room / columns, TALLEST * wide / tall), min(NARROWEST, TALLEST * wide / tall))
    height = width * tall / wide
    sides = {label: wrap(label, height, SMALL, 2) for label in labels}
    side = max(len(lines) for lines in sides.values()) * BAND + GAP if any(labels) else 0.0
    heads = [wrap(title, width, TEXT, 3) for title in titles]
    top = max([len(lines) for lines in heads] + [int(leads)]) * BAND

    left = EDGE + leads * (width + 2 * GAP) + side
    right = left + len(titles) * (width + GAP) - GAP
    headings = [wrap(group.heading, right - EDGE, TEXT, 2, "bold") for group in groups]
    rows_of = [len(group.rows) * (height + GAP) - GAP for group in groups]
    above = [len(lines) * BAND + (GAP if lines else 0) for lines in headings]
    full = right + EDGE + len(bars) * BAR
    foot = wrap(note, full - 2 * EDGE, SMALL, 2)
    total = 2 * EDGE + top + sum(rows_of) + sum(above) + GAP * len(groups) + BAND * len(foot)
    figure = Plain((full, total))
    page = Page(figure, full, total)

    y = EDGE + top
    for i, lines in enumerate(heads):
        page.text(left + i * (width + GAP) + width / 2, y - 0.03, lines, TEXT, "center")
    if leads:
        page.text(EDGE + width / 2, y - 0.03, ["input"], TEXT, "center")
    first = y + above[0]
    for group, lines, band in zip(groups, headings, above, strict=True):
        y += band
        page.text(EDGE, y - 0.03, lines, TEXT, "left", weight="bold")
        if group.lead is not None:
            page.picture(EDGE, y, width, height, group.lead)
        for label, row in group.rows:
            page.side(left - GAP, y + height / 2, sides[label])
            for column, cell in enumerate(row):
                if cell is not None:
                    page.picture(left + column * (width + GAP), y, width, height, cell)
            y += height + GAP
    length = min(y - GAP - first, 2.4)
    for i, bar in enumerate(bars):
        page.bar(right + 2 * GAP + i * BAR, first, length, bar)
    page.text(full - EDGE, total - EDGE, foot, SMALL, "right")
    return figure


class Page:
    """A figure addressed in inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_axis_off()
        return axes

    def picture(self, x: float, y: float, width: float, height: float, cell: Cell) -> None:
        axes = self.axes(x, y, width, height)
        axes.imshow(cell.image, aspect="auto", interpolation="antialiased")
        if cell.label:
            box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            words = {
                "fontsize": SMALL - 1,
                "color": INK,
                "fontfamily": _families(),
                "bbox": box,
                "ha": "left",
                "va": "bottom",
            }
            axes.text(0.05, 0.05, cell.label, transform=axes.transAxes, **words)

    def text(self, x: float, y: float, lines: Sequence[str], size: float, align: str, **more: Any) -> None:
        """Lines that end at height y."""
        for i, line in enumerate(reversed(lines)):
            at = x / self.width, 1 - (y - i * BAND) / self.height
            words: dict[str, Any] = {
                "fontsize": size,
                "color": INK,
                "fontfamily": _families(),
                "ha": align,
                "va": "bottom",
                **more,
            }
            self.figure.text(*at, line, **words)

    def side(self, x: float, y: float, lines: Sequence[str]) -> None:
        """Upright lines that end at x, centred on height y."""
        for i, line in enumerate(reversed(lines)):
            at = (x - i * BAND) / self.width, 1 - y / self.height
            words: dict[str, Any] = {
                "fontsize": SMALL,
                "color": INK,
                "fontfamily": _families(),
                "ha": "right",
                "va": "center",
                "rotation": 90,
            }
            self.figure.text(*at, line, **words)

    def bar(self, x: float, y: float, length: float, bar: Bar) -> None:
        axes = self.axes(x, y, 0.1, length)
        axes.imshow(bar.table[::-1, None], aspect="auto", interpolation="bilinear")
        words: dict[str, Any] = {"fontsize": SMALL, "color": INK, "fontfamily": _families()}
        spots = np.linspace(1, 0, len(bar.ticks))
        for spot, tick in zip(spots, bar.ticks, strict=True):
            edge = "bottom" if spot == 1 else "top" if spot == 0 else "center"
            at = (x + 0.14) / self.width, 1 - (y + spot * length) / self.height
            self.figure.text(*at, tick, ha="left", va=edge, **words)


def wrap(text: str, width: float, size: float, most: int, weight: str = "normal") -> list[str]:
    """Text in at most so many lines of a width in inches, measured in the font.

    What does not fit is cut in its middle by an ellipsis.
    """
    lines: list[str] = []
    rest = one_line(text)
    while rest:
        if len(lines) + 1 == most or measure(rest, size, weight) <= width:
            lines.append(_shortened(rest, width, size, weight))
            break
        fit = max((i for i in range(1, len(rest)) if measure(rest[:i], size, weight) <= width), default=1)
        # A line breaks after a blank, a comma, a dot or a low line (names), else where it must.
        cut = max((i for i in range(1, fit + 1) if rest[i - 1] in " ,./_" or rest[i] == " "), default=fit)
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return lines


def _shortened(text: str, width: float, size: float, weight: str) -> str:
    """Cut in the middle, since the end of a layer's name or a score tells most."""
    if measure(text, size, weight) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        found = text[: keep // 2].rstrip() + "…" + text[len(text) - (keep - keep // 2) :].lstrip()
        if measure(found, size, weight) <= width:
            return found
    return "…"


def _families(text: str = "") -> list[str]:
    """The font of these pages, and behind it those that have what it lacks."""
    from torchloupe.render.ink import fonts_of

    return [FONT, *(name for name in fonts_of(text) if name != FONT)]


@lru_cache(maxsize=4096)
def measure(text: str, size: float, weight: str = "normal") -> float:
    """Width of a text in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    from torchloupe.render.ink import written

    font = FontProperties(family=_families(text), size=size, weight=weight)
    return text_to_path.get_text_width_height_descent(written(text), font, False)[0] / 72


def raster(figure: Figure, dpi: int) -> Image.Image:
    """The figure as an RGB picture of so many pixels an inch."""
    from PIL import Image

    held = io.BytesIO()
    figure.savefig(held, dpi=dpi, format="png")
    return Image.open(held).convert("RGB")


def vector(figure: Figure, dpi: int, kind: str, about: Mapping[str, str]) -> bytes:
    """The figure as pdf or svg, its text as text; pictures in it have so many pixels an inch."""
    import matplotlib

    held = io.BytesIO()
    dated = {"CreationDate": None} if kind == "pdf" else {"Date": None}
    with matplotlib.rc_context(SAVING):
        figure.savefig(held, dpi=dpi, format=kind, metadata={**dated, **about})
    return held.getvalue()


def bare(image: np.ndarray, dpi: int) -> Figure:
    """A picture alone, one pixel a dot."""
    from torchloupe.render.ink import Plain

    tall, wide = image.shape[:2]
    figure = Plain((wide / dpi, tall / dpi))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(image, aspect="auto", interpolation="none")
    return figure
