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
    wanted = {ord(letter) for letter in text if ord(letter) > 126}
    if not wanted:
        return usual
    best, most = "", -1
    for path in _installed():
        held = len(wanted & _letters(path))
        if held > most:
            best, most = path, held
        if held == len(wanted):
            break
    return ImageFont.truetype(best, size) if most > 0 else usual


def shown(text: str) -> str:
    """The text as it can be drawn: letters that no installed font has as U+NNNN."""
    text = legible(text)
    if all(ord(letter) <= 126 for letter in text):
        return text
    known = _letters(str(getattr(font(10, text), "path", "")))
    return "".join(letter if ord(letter) <= 126 or ord(letter) in known else f"U+{ord(letter):04X}" for letter in text)


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
def _letters(path: str) -> frozenset[int]:
    """The code points that a font file has; none for a file that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
