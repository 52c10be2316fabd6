"""What is odd about the pictures of a data set, and how random its augmentation is: figures of each, outliers among all."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchloupe.data.samples import Sample

# The longer side of the picture on which its sharpness is measured.
SHARP_SIDE = 256
DARK, BRIGHT, FLAT, BLURRED = 20.0, 235.0, 6.0, 0.03
PLACES = 5
# Edges of the shares of the picture by which boxes are counted: halves of halves.
EDGES = tuple(0.5**k for k in range(14, -1, -1))
BINS = 20
NUMBER = re.compile(r"([A-Za-z_]\w*) (-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?=,|$)")


def quality(picture: np.ndarray) -> tuple[float, float, float]:
    """Mean of the grey values, their standard deviation, and the variance of their Laplacian on at most 256 pixels a side.

    picture (h, w, 3) uint8 -> three numbers; the last one is small for blurred pictures.
    Source: Pech-Pacheco et al. 2000, Diatom autofocusing in brightfield microscopy, ICPR (variance of the Laplacian).
    """
    from PIL import Image

    grey = Image.fromarray(picture).convert("L")
    if max(grey.size) > SHARP_SIDE:
        grey.thumbnail((SHARP_SIDE, SHARP_SIDE), Image.Resampling.BOX)
    x = np.asarray(grey, dtype=np.float32)
    if min(x.shape) < 3:
        return float(x.mean()), float(x.std()), 0.0
    sides = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
    return float(x.mean()), float(x.std()), float((sides - 4 * x[1:-1, 1:-1]).var())


def odd_pictures(figures: np.ndarray, sizes: np.ndarray) -> list[tuple[int, str]]:
    """(number, why) of pictures that are dark, bright, of hardly any content, blurred beside the others, or of an odd size.

    figures (n, 3) as quality gives them; sizes (n, 2) width and height. Blurred: less than 3 % of the median sharpness. Odd size: area
    or aspect ratio beyond three times the interquartile range of their logarithms, and by more than a factor of 1.5.
    """
    found: list[tuple[int, str]] = []
    if not len(figures):
        return found
    usual = float(np.median(figures[:, 2]))
    for k, (mean, spread, sharp) in enumerate(figures.tolist()):
        if mean < DARK:
            found.append((k, f"dark (mean {mean:.3g} of 255)"))
        elif mean > BRIGHT:
            found.append((k, f"bright (mean {mean:.4g} of 255)"))
        elif spread < FLAT:
            found.append((k, f"hardly any content (standard deviation {spread:.2g} of 255)"))
        elif sharp < BLURRED * usual:
            found.append((k, f"blurred (sharpness {sharp:.3g}, median {usual:.3g})"))
    for name, values in (("area", sizes.prod(1)), ("aspect ratio", sizes[:, 0] / sizes[:, 1])):
        logs = np.log(values.astype(float))
        low, middle, high = np.quantile(logs, (0.25, 0.5, 0.75))
        reach = max(3 * (high - low), math.log(1.5))
        for k in np.flatnonzero((logs < low - reach) | (logs > high + reach)).tolist():
            found.append((k, f"odd {name} {values[k]:.4g} (median {math.exp(middle):.4g})"))
    return sorted(found)


def share_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, from 0 to 1:  (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference, JASA 22.
    """
    z, p = 1.959963984540054, count / total
    middle, around = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (middle - around) / scale, (middle + around) / scale


@dataclass
class Boxes:
    """Boxes by size and place: their shares of the picture, and how many middles lie in each cell of a grid over it."""

    shares: list[float] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    places: np.ndarray = field(default_factory=lambda: np.zeros((PLACES, PLACES), int))
    names: Counter[str] = field(default_factory=Counter)

    def add(self, boxes: np.ndarray, names: Sequence[str], size: tuple[int, int]) -> None:
        """boxes (m, 4) in pixels of a picture of size (w, h). Small, medium and large as COCO has them: below 32^2, below 96^2."""
        w, h = size
        for k, (x0, y0, x1, y1) in enumerate(np.nan_to_num(boxes).tolist()):
            area = max(x1 - x0, 0) * max(y1 - y0, 0)
            self.shares.append(area / (w * h))
            self.sizes["small" if area < 32**2 else "medium" if area < 96**2 else "large"] += 1
            column, row = (x0 + x1) / 2 / w * PLACES, (y0 + y1) / 2 / h * PLACES
            self.places[min(max(int(row), 0), PLACES - 1), min(max(int(column), 0), PLACES - 1)] += 1
            if k < len(names):
                self.names[names[k]] += 1

    def summary(self) -> dict[str, Any]:
        """Plain values; {} without boxes."""
        if not self.shares:
            return {}
        low, middle, high = np.quantile(self.shares, (0.05, 0.5, 0.95)).tolist()
        return {"count": len(self.shares), "sizes": {key: self.sizes[key] for key in ("small", "medium", "large")},
                "share of picture": {"5 %": low, "median": middle, "95 %": high}, "places": self.places.tolist(),
                "edges": list(EDGES), "counts": np.histogram(np.clip(self.shares, EDGES[0], 1), EDGES)[0].tolist()}  # fmt: skip


@dataclass
class Draws:
    """How random a pipeline is, over all samples and repeats: of each step how often it was applied and what it drew, and what became of
    the boxes: how often one was dropped or left the picture, and how many of each class there were before and after."""

    steps: dict[str, Counter[str]] = field(default_factory=dict)
    numbers: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    samples: int = 0
    with_boxes: int = 0
    lost: int = 0
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        """Counts one draw."""
        self.samples += 1
        for step in sample.steps[1:]:
            counts = self.steps.setdefault(step.name, Counter())
            counts["seen"] += 1
            counts["left out"] += step.told.startswith("not applied")
            counts["unchanged"] += step.told.endswith("unchanged")
            for key, value in NUMBER.findall(step.told):
                self.numbers.setdefault((step.name, key), []).append(float(value))
        first, last = sample.original.known(0), sample.transformed.known(0)
        if first.boxes is not None and last.boxes is not None and len(first.boxes):
            self.with_boxes += 1
            seen = inside(last.boxes, sample.transformed.pictures[0])
            self.lost += int(seen.sum()) < int(inside(first.boxes, sample.original.pictures[0]).sum())
            self.before.update(first.names)
            self.after.update(name for name, here in zip(last.names, seen.tolist(), strict=False) if here)

    def summary(self) -> dict[str, Any]:
        """Plain values: step -> shares and drawn numbers; {} for pipelines without steps."""
        made: dict[str, Any] = {}
        for name, counts in self.steps.items():
            drawn = {key: _spread(values) for (step, key), values in self.numbers.items() if step == name}
            shares = {key: counts[key] / counts["seen"] for key in ("left out", "unchanged") if counts[key]}
            if drawn or shares:
                made[name] = {**shares, **({"drawn": drawn} if drawn else {})}
        if self.with_boxes:
            made["boxes"] = {"samples with a box dropped": self.lost / self.with_boxes,
                             "classes before": dict(self.before), "classes after": dict(self.after)}  # fmt: skip
        return made


def inside(boxes: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Which boxes (m, 4) have an area within their picture (h, w, 3); crops of some libraries keep the others, without one."""
    h, w = picture.shape[:2]
    x0, y0, x1, y1 = np.nan_to_num(boxes).reshape(-1, 4).T
    return (np.minimum(x1, w) > np.maximum(x0, 0)) & (np.minimum(y1, h) > np.maximum(y0, 0))


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Quartiles, and how often the values lie in each of BINS equal parts from the least to the greatest."""
    low, first, middle, third, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    counts = np.histogram(values, BINS)[0].tolist() if low < high else [len(values)]
    return {
        "count": len(values),
        "min": low,
        "25 %": first,
        "median": middle,
        "75 %": third,
        "max": high,
        "counts": counts,
    }


def drawn_lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(step, words) about what each step drew, for a table."""
    lines = []
    for name, one in summary.items():
        if name == "boxes":
            lines.append(
                (
                    name,
                    f"one or more dropped or out of the picture in {one['samples with a box dropped']:.0%} of the draws",
                )
            )
            continue
        words = [f"{key} {one[key]:.0%}" for key in ("left out", "unchanged") if key in one]
        words += [f"{key} {v['min']:.3g} to {v['max']:.3g}, median {v['median']:.3g}" for key, v in one.get("drawn", {}).items()
                  if v["min"] < v["max"]]  # fmt: skip
        if words:
            lines.append((name, "; ".join(words[:4])))
    return lines
