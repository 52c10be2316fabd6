"""What a map is drawn with, still or as a page: its points, the colours of their columns, the pictures of the samples."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from PIL import Image

from torchloupe.errors import BadInput, LoupeWarning, nearest
from torchloupe.methods.clusters import Group, cluster_codes, groups
from torchloupe.points import LABELS, Points, missing
from torchloupe.sources.points import read_points

UNLABELLED, GREY = "(no label)", (0.75, 0.75, 0.75)
FEATURES_WIDE = 10
UNLIKE = 120
PICTURES = "pictures"


def read_map(path: str | Path, **options: Any) -> Points:
    """Points to draw: a projection. Raises BadInput for features that were not projected yet."""
    points = read_points(path, **options)
    width = points.feats.shape[1]
    wide = points.feats.ndim > 2 or width > FEATURES_WIDE
    if points.record.get("kind") == "features" or (not points.record and wide):
        raise BadInput(
            f"{path}: features of {' x '.join(map(str, points.feats.shape[1:]))} numbers, not a map;"
            f" first: loupe project {path} -o points.npz"
        )
    if width > 3:
        warnings.warn(f"{path}: the first 3 of {width} dimensions are drawn", LoupeWarning, 2)
    return points


# --- colours --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classes:
    """A column of categories: names in natural order, codes (N,) into them, colours (C, 3) in [0, 1].

    gaps: the last of the names is no class, but stands for points without a label.
    """

    title: str
    names: tuple[str, ...]
    codes: np.ndarray
    colours: np.ndarray
    gaps: bool = False

    @property
    def rgb(self) -> np.ndarray:
        """(N, 3), the colour of every point."""
        return self.colours[self.codes]

    @property
    def count(self) -> int:
        """How many classes there are; points without a label are none."""
        return len(self.names) - self.gaps

    def named(self, most: int) -> tuple[list[int], str]:
        """At most so many classes and a word on how they were chosen: the largest; of equals, evenly spread ones."""
        sizes = np.bincount(self.codes, minlength=len(self.names))[: self.count]
        if self.count <= most:
            return list(range(self.count)), f"{self.count}"
        bound = np.sort(sizes)[-most]
        above, equal = np.flatnonzero(sizes > bound), np.flatnonzero(sizes == bound)
        spread = equal[np.linspace(0, len(equal) - 1, most - len(above)).round().astype(int)]
        chosen = sorted([*above.tolist(), *spread.tolist()])
        return chosen, f"{most} largest" if len(equal) == most - len(above) else f"{most}, evenly chosen,"

    @property
    def largest(self) -> np.ndarray:
        """Class numbers, the one with most points first."""
        return np.argsort(-np.bincount(self.codes, minlength=len(self.names))[: self.count], kind="stable")


@dataclass(frozen=True)
class Scale:
    """A column of numbers: values (N,), drawn from low to high along a colour map; not-a-number is grey.

    dates: the numbers are seconds since 1970.
    """

    title: str
    values: np.ndarray
    low: float
    high: float
    cmap: str
    dates: bool = False

    def colours_of(self, shares: Any) -> np.ndarray:
        """(n, 3): the colours at shares from 0, the low end, to 1."""
        return matplotlib.colormaps[self.cmap](np.asarray(shares, float))[..., :3]

    def words(self, values: Sequence[float]) -> list[str]:
        """Numbers, or dates as far as they need to be told apart."""
        if not self.dates:
            return [f"{value:g}" for value in values]
        day = 86_400
        unit = "D" if self.high - self.low >= 2 * day or not (self.high - self.low) % day else "s"
        return [str(np.datetime64(round(value), "s").astype(f"datetime64[{unit}]")) for value in values]

    @property
    def rgb(self) -> np.ndarray:
        """(N, 3), the colour of every point."""
        share = (self.values - self.low) / ((self.high - self.low) or 1)
        rgb = self.colours_of(np.nan_to_num(share, posinf=0, neginf=0))
        rgb[~np.isfinite(self.values)] = GREY
        return rgb


def natural(name: str) -> tuple[int, float, list[tuple[int, int, str]]]:
    """A key that sorts 2 before 10, walk 2 before walk 10, and numbers before words."""
    parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]
    try:
        return (0, float(name), parts)
    except ValueError:
        return (1, 0.0, parts)


def is_numeric(values: np.ndarray, name: str) -> bool:
    """Whether a column is a quantity: floats, and integers of more than 50 values unless they are the labels."""
    if values.dtype.kind in "fM":
        return True
    return values.dtype.kind in "iu" and name != LABELS and len(np.unique(values)) > 50


def _seconds(dates: np.ndarray) -> np.ndarray:
    """Dates as seconds since 1970, NaT as NaN."""
    found = dates.astype("datetime64[us]").astype(np.int64) / 1e6
    found[np.isnat(dates)] = np.nan
    return found


def categories(values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Names in natural order, and the number of each value's name."""
    found, codes = np.unique(values.astype(str), return_inverse=True)
    order = sorted(range(len(found)), key=lambda i: natural(str(found[i])))
    place = np.empty(len(found), np.int64)
    place[order] = np.arange(len(found))
    return tuple(str(found[i]) for i in order), place[codes]


def colouring(
    points: Points, column: str | None, cmap: str | None, kind: Literal["auto", "categories", "numbers"] = "auto"
) -> Classes | Scale:
    """Colours of the points by a column (None: "labels" where there are any, else one colour for all)."""
    if cmap is not None and cmap not in matplotlib.colormaps:
        raise BadInput(f"colour map {cmap!r}: unknown to matplotlib.{nearest(cmap, matplotlib.colormaps)}")
    name = column or (LABELS if points.labels is not None else None)
    if name is None:
        return Classes("", ("all",), np.zeros(len(points), int), np.array([matplotlib.colors.to_rgb("tab:blue")]))
    values = points.column(name)
    dates = values.dtype.kind == "M"
    if kind == "numbers" and values.dtype.kind not in "iufM":
        raise BadInput(f"column {name!r} holds words; it can be coloured as categories only")
    if kind == "numbers" or (kind == "auto" and is_numeric(values, name)):
        numbers = _seconds(values) if dates else values.astype(float)
        finite = numbers[np.isfinite(numbers)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        return Scale(name, numbers, low, high, cmap or "viridis", dates)
    gap = missing(values)
    names, known = categories(values[~gap])
    colours, codes = class_colours(len(names), cmap), np.full(len(values), len(names))
    codes[~gap] = known
    if gap.any():
        names, colours = (*names, UNLABELLED), np.vstack([colours, [GREY]])
    return Classes(name, names, codes, colours, bool(gap.any()))


@lru_cache
def unlike(count: int) -> np.ndarray:
    """(count, 3): matplotlib's ten colours, then of a grid of colours always the one farthest from all taken, in CIELAB."""
    taken = [np.array(colour) for colour in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]
    steps = np.linspace(0, 1, 12)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    places = lab(grid)
    grid, places = grid[(places[:, 0] > 20) & (places[:, 0] < 85)], places[(places[:, 0] > 20) & (places[:, 0] < 85)]
    apart = np.min(
        [np.linalg.norm(places - lab(np.array([*taken, GREY]))[i], axis=1) for i in range(len(taken) + 1)], 0
    )
    while len(taken) < count:
        best = int(apart.argmax())
        taken.append(grid[best])
        apart = np.minimum(apart, np.linalg.norm(places - places[best], axis=1))
    return np.array(taken)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (n, 3) of sRGB colours (n, 3) in [0, 1], white D65. Source: CIE 15:2004; IEC 61966-2-1."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def class_colours(count: int, cmap: str | None = None) -> np.ndarray:
    """(count, 3): matplotlib's ten, behind them colours as unlike all before as can be (up to 120), else hues around the
    wheel, or along a cmap."""
    if cmap is None and count <= UNLIKE:
        return unlike(UNLIKE)[:count]
    if cmap is None:
        hue = np.arange(count) / count
        light = np.where(np.arange(count) % 2, 0.95, 0.72)
        return matplotlib.colors.hsv_to_rgb(np.stack([hue, np.full(count, 0.85), light], 1))
    return matplotlib.colormaps[cmap](np.linspace(0, 1, count))[:, :3]


# --- clusters ---


def named_clusters(points: Points, by: str, images: Path | None) -> tuple[list[Group], list[Path | None] | None]:
    """The clusters of a map with their names, and the pictures of all samples where these name them (by: pictures).

    Errors: BadInput for a column of quantities, or pictures without a folder.
    """
    if by == PICTURES and images is None:
        raise BadInput("--name-by pictures: needs --images, the folder with the picture of every sample")
    pictures = find_pictures(points, images) if by == PICTURES and images is not None else None
    values = None if by == PICTURES else points.column(by)
    if values is not None and values.dtype.kind in "fM":
        raise BadInput(f"--name-by {by}: holds numbers, which do not name a cluster; name a column of words or classes")
    return groups(points.feats, cluster_codes(points), values), pictures


# --- pictures of the samples ---


def find_pictures(points: Points, folder: Path) -> list[Path | None]:
    """The picture of every sample: folder / (column "file" or "path", else the id), with or without a suffix."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder of pictures")
    column = next((points.columns[name] for name in ("file", "path") if name in points.columns), points.ids)
    stems = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*")) if path.suffix
    }
    found = []
    for name in column.tolist():
        path = folder / str(name)
        found.append(path if path.is_file() else stems.get(str(name)))
    if not any(found):
        raise BadInput(
            f"{folder}: holds no picture of the first sample {str(column[0])!r} nor of any other; names are the ids"
        )
    return found


def thumbnail(path: Path, side: int) -> np.ndarray:
    """(h, w, 3) uint8, the longer side `side` pixels."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
        scale = side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST))
