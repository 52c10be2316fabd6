"""Fonts for text in pictures: for every text one that has its letters, of those that are installed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from torchloupe.errors import legible

PLAIN = "DejaVuSans"
# fonts that hold a box with the code for every letter: no letters to read
BOXES = ("LastResort",)


@lru_cache(maxsize=64)
def font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """The font of labels; for a text whose letters it lacks, the first installed one that has them all, else the one that has
    most of them."""
    usual = ImageFont.load_default(size)
    assert isinstance(usual, ImageFont.FreeTypeFont)
    best = _best(text)
    return ImageFont.truetype(best, size) if best else usual


def family(text: str) -> str:
    """The name of the installed font that has most of a text's letters; "" where none has any."""
    from matplotlib import font_manager

    best = _best(text)
    return next((entry.name for entry in font_manager.fontManager.ttflist if entry.fname == best), "") if best else ""


@lru_cache(maxsize=1024)
def _best(text: str) -> str:
    """The first installed font file that has all letters of a text that the usual font may lack, else the one that has most."""
    wanted = {letter for letter in text if ord(letter) > 126}
    best, most = "", 0
    for path in _installed() if wanted else ():
        held = len(wanted & letters(path))
        if held > most:
            best, most = path, held
        if held == len(wanted):
            break
    return best


def shown(text: str) -> str:
    """The text as it can be drawn: letters that no installed font has as U+NNNN."""
    text = legible(text)
    if all(ord(letter) <= 126 for letter in text):
        return text
    known = letters(str(getattr(font(10, text), "path", "")))
    return "".join(letter if ord(letter) <= 126 or letter in known else f"U+{ord(letter):04X}" for letter in text)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Font files: matplotlib's own first, then the system's upright ones."""
    from matplotlib import font_manager

    own = Path(font_manager.findfont("DejaVu Sans"))
    others = [
        entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and not any(name in Path(entry.fname).name for name in BOXES)
    ]
    return tuple(dict.fromkeys([str(own), *sorted(others)]))


@lru_cache(maxsize=512)
def letters(path: str) -> frozenset[str]:
    """The letters that a font file has; none for a file that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
