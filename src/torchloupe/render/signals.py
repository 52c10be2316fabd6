"""A signal drawn over its steps, and under it one strip of colours for every map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchloupe.render.plots import BAND, BAR, EDGE, GAP, INK, PAGE, SMALL, TEXT, Bar, Page, measure, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = 8
LEAD, STRIP, ROOM, WORDS = 0.5, 0.22, 3.0, 1.5


@dataclass(frozen=True)
class Strip:
    """One map of a signal: colours (steps, 3) in 0..1, what it is called, and the question that it answers."""

    question: str
    label: str
    colours: np.ndarray


def figure(signal: np.ndarray, strips: Sequence[Strip], bars: Sequence[Bar], note: str) -> Figure:
    """signal (channels, steps), a line each, or colours from white to black where there are more than LINES.

    Strips of one question stand together under their heading. Steps are numbered below.
    """
    from torchloupe.render.ink import Plain

    channels, steps = signal.shape
    names = {strip.label: wrap(strip.label, WORDS, SMALL, 2) for strip in strips}
    side = max(measure(line, SMALL) for lines in names.values() for line in lines) + 2 * GAP
    left, right = EDGE + side, PAGE - EDGE - len(bars) * BAR
    few = channels <= LINES
    tall = channels * LEAD if few else ROOM
    headings = list(dict.fromkeys(strip.question for strip in strips))
    lines = {heading: wrap(heading, right - EDGE, TEXT, 2, "bold") for heading in headings}
    rows = sum(len(lines[heading]) * BAND + 2 * GAP for heading in headings) + len(strips) * (STRIP + GAP)
    total = 2 * EDGE + tall + rows + 3 * BAND + GAP
    made = Plain((PAGE, total))
    page = Page(made, PAGE, total)

    y = EDGE
    width = right - left
    if few:
        for values in signal:
            _line(page.axes(left, y, width, LEAD - GAP), values)
            y += LEAD
    else:
        spread = (signal - signal.min(1, keepdims=True)) / np.maximum(np.ptp(signal, 1, keepdims=True), 1e-30)
        page.axes(left, y, width, tall - GAP).imshow(spread, aspect="auto", cmap="Greys", interpolation="antialiased")
        page.text(left - GAP, y + tall / 2, [f"{channels} channels"], SMALL, "right")
        y += tall
    first = y
    for heading in headings:
        y += len(lines[heading]) * BAND + 2 * GAP
        page.text(EDGE, y - GAP, lines[heading], TEXT, "left", weight="bold")
        for strip in strips:
            if strip.question != heading:
                continue
            page.axes(left, y, width, STRIP).imshow(strip.colours[None], aspect="auto", interpolation="antialiased")
            words = names[strip.label]
            page.text(left - GAP, y + STRIP / 2 + len(words) * BAND / 2, words, SMALL, "right")
            y += STRIP + GAP
    for at in _ticks(steps):
        x = left + (at + 0.5) / steps * width
        page.text(x, y + BAND, [str(at)], SMALL, "center")
    page.text((left + right) / 2, y + 2 * BAND, ["step"], SMALL, "center")
    for i, bar in enumerate(bars):
        page.bar(right + 2 * GAP + i * BAR, EDGE, min(max(first - EDGE, 1.0), 2.4, total - 1.0), bar)
    page.text(PAGE - EDGE, total - EDGE, wrap(note, PAGE - 2 * EDGE, SMALL, 2), SMALL, "right")
    return made


def _line(axes: Any, values: np.ndarray) -> None:
    steps = len(values)
    axes.plot(np.arange(steps), values, color=INK, linewidth=0.7)
    axes.set_xlim(-0.5, steps - 0.5)


def _ticks(steps: int) -> list[int]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(8, integer=True).tick_values(0, steps - 1)
    return [int(at) for at in found if 0 <= at < steps]
