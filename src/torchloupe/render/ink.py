"""Text in figures is text: no mathematics, no TeX, whatever names and titles hold and whatever the user's matplotlib is set to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import Formatter, LogFormatter, ScalarFormatter

from torchloupe.errors import legible
from torchloupe.render.fonts import family, letters

SCRIPTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC"),
    *("Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC"),
    *("Hiragino Sans", "Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "AppleGothic"),
    *("Noto Sans Arabic", "Noto Naskh Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Arial Unicode MS", "Geeza Pro", "Segoe UI", "Tahoma", "FreeSans", "Unifont"),
)
"""Fonts of other scripts, as systems call them; those that are installed are asked for what the first font lacks."""


def families(installed: Iterable[str]) -> list[str]:
    """The user's font, and behind it those of other scripts that are installed, in the order of SCRIPTS."""
    there = set(installed)
    return [*rcParams["font.family"], *(name for name in SCRIPTS if name in there)]


TEXT: dict[str, Any] = {
    "parse_math": False,
    "usetex": False,
    "fontfamily": families(font.name for font in fontManager.ttflist),
}
PLAIN: Any = {
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "font.family": TEXT["fontfamily"],
}


def written(text: str) -> str:
    """The text as a picture can hold it: letters that no installed font has as U+NNNN."""
    text = legible(text)
    lost = {letter for letter in text if ord(letter) > 126} - _letters(fonts_of(text))
    return "".join(f"U+{ord(letter):04X}" if letter in lost else letter for letter in text)


@lru_cache(maxsize=4096)
def fonts_of(text: str) -> tuple[str, ...]:
    """The fonts of a text: those of all texts, and behind them installed ones that have letters which they lack."""
    found = tuple(TEXT["fontfamily"])
    lost = {letter for letter in text if ord(letter) > 126}
    while lost and (lost := lost - _letters(found)) and (more := family("".join(sorted(lost)))):
        found = (*found, more)
    return found


@lru_cache(maxsize=256)
def _letters(families: tuple[str, ...]) -> frozenset[str]:
    found: set[str] = set()
    for name in families:
        found |= letters(fontManager.findfont(FontProperties(family=[name])))
    return frozenset(found)


class Plain(Figure):
    """A figure that draws every text as it stands. What matplotlib writes itself, such as 10^3 at a logarithmic axis, stays.

    Texts that are measured before the figure is drawn need `**TEXT` of their own, or come by `text`, `suptitle` and
    `legend_of`.
    """

    def text(self, x: float, y: float, s: str, *args: Any, **words: Any) -> Text:
        """As `Figure.text`."""
        return super().text(x, y, legible(s), *args, **{**TEXT, **words})

    def suptitle(self, t: str, **words: Any) -> Text:
        """As `Figure.suptitle`."""
        return super().suptitle(legible(t), **{**TEXT, **words})

    def legend_of(self, handles: Sequence[Artist], names: Sequence[str], title: str = "", **words: Any) -> Legend:
        """A legend of these handles, whatever they are called: matplotlib leaves out names that begin with a low line."""
        with rc_context(PLAIN):
            made = self.legend(
                handles=handles, labels=["name"] * len(handles), title="title" if title else None, **words
            )
        for text, name in zip(made.get_texts(), names, strict=True):
            text.set_text(legible(name))
        made.get_title().set_text(legible(title))
        return made

    def draw(self, renderer: Any) -> None:
        """As `Figure.draw`."""
        # the text of an svg file is text, for which whoever reads it has fonts of their own
        as_text = isinstance(self.canvas, FigureCanvasSVG)
        shown = legible if as_text else written
        numbers: set[int] = set()
        for axis in (axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)):
            if isinstance(axis.get_major_formatter(), (ScalarFormatter, LogFormatter)):
                ticks = (*axis.get_major_ticks(), *axis.get_minor_ticks())
                numbers |= {id(axis.offsetText), *(id(text) for tick in ticks for text in (tick.label1, tick.label2))}
            else:
                names = [text.get_text() for text in axis.get_ticklabels()]  # made on demand: now
                held = axis.get_major_formatter()
                if isinstance(held, _Legible) or any(name != shown(name) for name in names):
                    axis.set_major_formatter(_Legible(held.names if isinstance(held, _Legible) else held, shown))
        for text in self.findobj(Text):
            text.set_usetex(False)
            own = text.get_fontfamily()
            if own == list(rcParams["font.family"]):
                text.set_fontfamily(own := TEXT["fontfamily"])
            if id(text) not in numbers:
                text.set_parse_math(False)
                text.set_fontfamily([*own, *(name for name in fonts_of(text.get_text()) if name not in own)])
                text.set_text(shown(text.get_text()))
        with rc_context({"text.usetex": False}), warnings.catch_warnings():
            if as_text:
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
            super().draw(renderer)


class _Legible(Formatter):
    """Names at ticks that matplotlib cannot draw, as they can be written."""

    def __init__(self, names: Formatter, shown: Callable[[str], str]) -> None:
        self.names, self.shown = names, shown

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.shown(self.names(x, pos))
