"""How what flows through a pipeline becomes a picture again: ranges of values, channels, normalisations to undo."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchloupe.errors import BadInput, need

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
# As many channels as a picture may have, not a stack of frames.
MOST_CHANNELS = 16
# The bands of PIL pictures that are no bytes: its own way to RGB cuts them off at 255.
WIDE = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
LEVELS = (1.0, 255.0, 65535.0)


def value_range(text: str | None) -> tuple[float, float] | None:
    """'0:4095' -> (0, 4095). Errors: BadInput for anything but two numbers, the lower first."""
    if text is None:
        return None
    low, colon, high = text.partition(":")
    try:
        found = float(low), float(high)
    except ValueError:
        found = 0.0, 0.0
    if not colon or not found[0] < found[1] or not np.isfinite(found).all():
        raise BadInput(f"--range {text}: expected LOW:HIGH, for example 0:4095")
    return found


def chosen_channels(text: str | None) -> tuple[int, ...] | None:
    """'3,2,1' -> (3, 2, 1); 'each' -> (), one picture a channel. Errors: BadInput for anything but one or three numbers."""
    if text is None:
        return None
    if text == "each":
        return ()
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.strip().isdecimal() for part in parts):
        raise BadInput(f"--channels {text}: expected one or three numbers such as 3,2,1, or each")
    return tuple(int(part) for part in parts)


@dataclass
class Levels:
    """The values that are shown black and white, one pair a step of a data set: from what its probed samples hold.

    asked: the pair that --range gave. fixed: step -> what the type of its values says. seen: step -> least and greatest value.
    open: still being told.
    """

    asked: tuple[float, float] | None = None
    fixed: dict[str, tuple[float, float]] = field(default_factory=dict)
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    open: bool = True

    def of(self, place: str, low: float, high: float, typed: tuple[float, float] | None = None) -> tuple[float, float]:
        """The pair for values from low to high at a step; typed: what their type says, whatever they are."""
        known = self.seen.get(place)
        if self.open:
            known = self.seen[place] = (low, high) if known is None else (min(low, known[0]), max(high, known[1]))
            if typed is not None:
                self.fixed[place] = typed
        return self.asked or typed or level(*(known or (low, high)))

    def told(self) -> tuple[str, ...]:
        """A line for each range that was chosen here; none where values are from 0 to 1."""
        if self.asked is not None:
            return (f"values shown from {self.asked[0]:g} to {self.asked[1]:g}, as --range says",)
        lines = []
        for place, (least, most) in self.seen.items():
            low, high = self.fixed.get(place) or level(least, most)
            if high > 1 or low < 0:
                held = f"values from {least:.4g} to {most:.4g} in the pictures probed"
                lines.append(f"{place}: {held}, shown from {low:.4g} to {high:.4g}; --range LOW:HIGH shows others")
        return tuple(lines)


def level(low: float, high: float) -> tuple[float, float]:
    """0 to 1, 255 or 65535, the least that holds the values; negative and larger ones from the least to the greatest."""
    if strange(low, high):
        return low, max(high, low + 1e-12)
    return 0.0, next(top for top in LEVELS if high <= top + 1e-6)


def strange(low: float, high: float) -> bool:
    """Whether values are below zero or of no known range."""
    return low < -1e-3 or high > LEVELS[-1]


@dataclass(frozen=True)
class Look:
    """How to turn what flows through a pipeline back into a picture: channel order, normalisations to undo, ranges.

    levels: the ranges of the data set's steps; place: the step that is shown. channels: those to show, () for one picture each.
    top: the greatest value of numbers of 16 bits that are not all used, where a file says so.
    """

    bgr: bool = False
    undo: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    levels: Levels | None = None
    place: str = ""
    channels: tuple[int, ...] | None = None
    top: float | None = None

    def at(self, place: str) -> Look:
        """The look at a step."""
        return replace(self, place=place)

    def after(self, step: Any) -> Look:
        """The look of what `step` gives."""
        found = normalisation(step)
        look = self if found is None else replace(self, undo=(*self.undo, found))
        # mmcv's Normalize turns the channels round as well.
        return replace(look, bgr=False) if self.bgr and found is not None and getattr(step, "to_rgb", False) else look

    def pictures(self, value: Any) -> tuple[np.ndarray, ...]:
        """Every picture in a value, as (h, w, 3) uint8 RGB; () where it holds none."""
        if isinstance(value, (list, tuple)):
            found = [self.pictures(part) for part in value]
            return tuple(p for part in found for p in part) if all(found) else ()
        if hasattr(value, "getbands"):
            if value.mode not in WIDE:
                return (np.array(value.convert("RGB"), copy=True),)
            value = np.asarray(value)
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "uifb" or not value.size:
            return ()
        if value.ndim == 4 and value.shape[0] in (1, 3) and not {1, 3, 4} & {value.shape[1], value.shape[3]}:
            # Videos as (c, t, h, w).
            value = value.swapaxes(0, 1)
        if value.ndim == 4 and len(value) <= 64:
            return self.pictures(list(value))
        if value.ndim == 2:
            value = value[..., None]
        if value.ndim != 3 or min(value.shape) < 1:
            return ()
        usual = (1, 3, 4)
        if value.shape[-1] not in usual:
            first, last = value.shape[0], value.shape[-1]
            if first in usual or (first <= MOST_CHANNELS < min(value.shape[1:])):
                value = value.transpose(1, 2, 0)
            elif not last <= MOST_CHANNELS < min(value.shape[:2]):
                return ()
        return self._shown(value)

    def note(self, value: Any) -> str:
        """What to tell of values that are not shown as they are: NaN, and channels left out; '' for others."""
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else value
        if hasattr(array, "getbands"):
            return "alpha left out" if "A" in array.getbands() else ""
        if not isinstance(array, np.ndarray) or not array.size:
            return ""
        if array.dtype.kind == "f":
            missing = array.size - int(np.isfinite(array).sum())
            if missing:
                return f"{missing} values are NaN or infinite"
            if not self.undo and strange(float(array.min()), float(array.max())):
                low, high = self._levels(float(array.min()), float(array.max()))
                return f"shown from {low:.3g} to {high:.3g}"
        if array.ndim == 3 and self.channels is None:
            count = array.shape[-1] if array.shape[-1] in (1, 3, 4) else min(array.shape[0], array.shape[-1])
            if count == 4:
                return "the fourth channel left out"
            if 4 < count <= MOST_CHANNELS:
                return f"channels 0, 1, 2 of {count}; --channels shows others"
        return ""

    def _levels(self, low: float, high: float, kind: np.dtype | None = None) -> tuple[float, float]:
        typed = (0.0, self.top or LEVELS[-1]) if kind is not None and kind.kind == "u" and kind.itemsize == 2 else None
        return typed or level(low, high) if self.levels is None else self.levels.of(self.place, low, high, typed)

    def _shown(self, value: np.ndarray) -> tuple[np.ndarray, ...]:
        """(h, w, c) of any type as one picture, or one a channel."""
        count = value.shape[-1]
        wanted = self.channels
        if wanted and max(wanted) >= count:
            raise BadInput(f"--channels {','.join(map(str, wanted))}: the picture has {count}, numbered from 0")
        made = self._bytes(value)
        if wanted is not None:
            picked = [[k] for k in range(count)] if not wanted else [list(wanted)]
            shown = [made[..., part] for part in picked]
        else:
            # Two channels are red and green; of more than three the first three are shown.
            shown = [np.pad(made, [(0, 0), (0, 0), (0, 1)]) if count == 2 else made[..., :3]]
        turn = self.bgr and count >= 3 and wanted is None
        return tuple(
            np.repeat(one, 3, -1) if one.shape[-1] == 1
            # A copy: later steps may work in place on what they were given.
            else np.array(one[..., ::-1] if turn else one, order="C", copy=True)
            for one in shown
        )  # fmt: skip

    def _bytes(self, value: np.ndarray) -> np.ndarray:
        asked = self.levels.asked if self.levels is not None else None
        if value.dtype == np.uint8 and asked is None:
            return value
        whole = value.dtype
        value = value.astype(np.float64)
        for mean, std in reversed(self.undo):
            value = value * std + mean
        value = np.nan_to_num(value, posinf=0, neginf=0)
        if self.undo:
            # Normalised values say by their mean and std whether they were 0 to 1 or 0 to 255.
            low, high = 0.0, 1.0 if all(np.max(std) <= 2.0 for _, std in self.undo) else 255.0
        elif whole.kind == "b":
            low, high = 0.0, 1.0
        else:
            low, high = self._levels(float(value.min()), float(value.max()), whole)
        return ((value - low) * (255.0 / (high - low))).round().clip(0, 255).astype(np.uint8)


def normalisation(step: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """(mean, std) of a step called Normalize..., in the range of the values that it takes; None for other steps."""
    if "normalize" not in type(step).__name__.lower():
        return None
    flags = getattr(step, "flags", {})
    mean, std = getattr(step, "mean", flags.get("mean")), getattr(step, "std", flags.get("std"))
    if mean is None or std is None:
        return None
    most = getattr(step, "max_pixel_value", None) or 1.0
    return _numbers(mean) * most, _numbers(std) * most


def _numbers(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64).reshape(-1)


def described(value: Any) -> str:
    """A value that is no picture, in a few words: its type and shape, or those of its parts."""
    if isinstance(value, (tuple, list)) and 0 < len(value) <= 6:
        return f"{type(value).__name__} of {', '.join(map(described, value))}"
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}{'' if shape is None else ' ' + 'x'.join(map(str, shape))}"


class Opened(NamedTuple):
    """A picture file: an RGB PIL picture, of wider numbers and other bands an array (h, w, c); the greatest value that it may
    hold, where that is no full byte or word; what was left out."""

    image: Any
    top: float | None = None
    said: str = ""


def open_picture(path: str | Path) -> Opened:
    """A picture file, turned as its camera says. Raises what PIL raises."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            bits, bands = (*_tag(file, 258), 0)[0], (*_tag(file, 277), 1)[0]
            if bands == 2 and not set(_tag(file, 338)) & {1, 2}:
                # Of the second band nobody says that it is alpha; PIL leaves it out.
                raise UnidentifiedImageError(path)
            turned = ImageOps.exif_transpose(file)
            if turned.mode not in WIDE:
                alpha = "A" in turned.getbands() or "transparency" in turned.info
                return Opened(turned.convert("RGB"), None, "alpha left out" if alpha else "")
            array = np.asarray(turned)
            # A PNG has bytes or words; PIL holds some of the latter as longer numbers.
            array = array.astype(np.uint16) if file.format == "PNG" else array
            return Opened(array[..., None], 2.0**bits - 1 if 8 < bits < 16 else None)
    except UnidentifiedImageError:
        if Path(path).suffix.lower() not in (".tif", ".tiff"):
            raise
    try:
        import tifffile
    except ImportError as error:
        raise need("tifffile", "wide") from error
    array = np.asarray(tifffile.imread(path))
    if array.ndim == 3 and array.shape[0] <= MOST_CHANNELS < min(array.shape[1:]):
        array = array.transpose(1, 2, 0)
    return Opened(array[..., None] if array.ndim == 2 else array)


def _tag(file: Any, number: int) -> tuple[int, ...]:
    """The numbers of a tag of a TIFF; () of other files and for tags that are not there."""
    found = getattr(file, "tag_v2", {}).get(number, ())
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)
