"""Where a question is in its picture: boxes with labels and scores, outlines of regions, and the masks of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchloupe.errors import one_line

LINE, HALO = (255, 255, 255), (20, 20, 20)
LABEL = 22
THICK = 220
MOST = 20


@dataclass(frozen=True)
class Mark:
    """A box in pixels of its picture: left, top, right, bottom; and what is written at it. bold: it is what is explained."""

    box: tuple[float, float, float, float]
    label: str = ""
    bold: bool = True


def listed(detections: np.ndarray, classes: Mapping[str, str], threshold: float = 0.0) -> list[Mark]:
    """Detections (m, 6), each a box, its score and the number of its class -> thin marks of the MOST best ones."""
    rows = [row for row in detections.tolist() if row[4] >= threshold]
    return [
        Mark(tuple(row[:4]), f"{classes.get(str(int(row[5])), 'class ' + str(int(row[5])))} {row[4]:.2f}", bold=False)
        for row in sorted(rows, key=lambda row: -row[4])[:MOST]
    ]


def inside_box(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: the pixels that a box touches; one at least where it lies outside of the picture."""
    found = np.zeros(size, bool)
    spans = []
    for low, high, length in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
        start = min(max(int(np.floor(low)), 0), length - 1)
        spans.append(slice(start, min(max(int(np.ceil(high)), start + 1), length)))
    found[spans[0], spans[1]] = True
    return found


def inside_region(region: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h', w') bool at any resolution -> (h, w) bool, the nearest cell of each pixel."""
    rows, columns = (
        np.minimum(((np.arange(length) + 0.5) * old / length).astype(int), old - 1)
        for length, old in zip(size, region.shape, strict=True)
    )
    return region.astype(bool)[rows][:, columns]


def framed_boxes(image: np.ndarray, marks: Sequence[Mark], size: tuple[int, int]) -> np.ndarray:
    """Boxes and labels over a picture (h', w', 3) uint8; the boxes are in pixels of size (h, w). Bold ones lie on top."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    from torchloupe.render.plots import FONT

    if not marks:
        return image
    drawn = Image.fromarray(image)
    pen = ImageDraw.Draw(drawn, "RGBA")
    h, w = image.shape[:2]
    font = ImageFont.truetype(findfont(FONT), max(9, max(h, w) // LABEL))
    thick = max(1, round(max(h, w) / THICK))
    by_weight = sorted(marks, key=lambda mark: mark.bold)
    for mark in by_weight:
        left, right = (max(0.0, min(x * w / size[1], w - 1)) for x in mark.box[::2])
        top, bottom = (max(0.0, min(y * h / size[0], h - 1)) for y in mark.box[1::2])
        wide = thick if mark.bold else max(1, thick // 2)
        edge = max(1, wide // 2)
        outer = (left - edge, top - edge, right + edge, bottom + edge)
        pen.rectangle(outer, outline=(*HALO, 255 if mark.bold else 160), width=wide + 2 * edge)
        pen.rectangle((left, top, right, bottom), outline=(*LINE, 255 if mark.bold else 190), width=wide)
    taken: list[tuple[float, float, float, float]] = []
    for mark in reversed(by_weight):
        if mark.label:
            at = mark.box[0] * w / size[1], mark.box[1] * h / size[0], mark.box[3] * h / size[0]
            _written(pen, mark.label, at, font, (w, h), taken)
    return np.asarray(drawn)


def _written(
    pen: Any,
    text: str,
    at: tuple[float, float, float],
    font: Any,
    page: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """A label above its box, in it or below it, where no other label stands; none where there is no room."""
    text = one_line(text)
    left, top, bottom = at
    pad = font.size // 4
    wide, tall = font.getlength(text) + 2 * pad, font.size + 2 * pad
    x = max(0.0, min(left, page[0] - wide))
    for y in (top - tall, top, bottom - tall, bottom):
        spot = (x, y, x + wide, y + tall)
        if y < 0 or y + tall > page[1] or any(_overlap(spot, other) for other in taken):
            continue
        taken.append(spot)
        pen.rounded_rectangle(spot, pad, (255, 255, 255, 220))
        pen.text((x + pad, y + tall / 2), text, font=font, anchor="lm", fill=(26, 26, 26))
        return


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def outlined(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The outline of a region (h', w') bool over a picture (h, w, 3) uint8."""
    from PIL import Image, ImageFilter

    h, w = image.shape[:2]
    mask = Image.fromarray(inside_region(inside, (h, w)).astype(np.uint8) * 255)
    thick = max(1, round(max(h, w) / THICK))
    edge = max(1, thick // 2)
    shrunk = np.asarray(mask.filter(ImageFilter.MinFilter(2 * thick + 1))) > 0
    grown = np.asarray(mask.filter(ImageFilter.MaxFilter(2 * edge + 1))) > 0
    less = np.asarray(mask.filter(ImageFilter.MinFilter(2 * (thick + edge) + 1))) > 0
    found = image.copy()
    found[grown & ~less] = HALO
    found[(np.asarray(mask) > 0) & ~shrunk] = LINE
    return found
