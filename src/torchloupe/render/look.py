"""How points are drawn: every option of drawing them, checked once. Light enough for the command line to import."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torchloupe.errors import BadInput

DENSE = 50_000


@dataclass(frozen=True)
class View:
    """How a 3-D picture is looked at: degrees of elevation and azimuth as in matplotlib, and a zoom."""

    elev: float = 25.0
    azim: float = -60.0
    zoom: float = 1.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.elev, self.azim, self.zoom))):
            raise BadInput(f"view {self}: expected finite numbers")
        if not 1e-6 <= self.zoom <= 1e6:
            raise BadInput(f"zoom {self.zoom}: expected a number above 0, from 1e-6 to 1e6")

    def __str__(self) -> str:
        return f"{self.elev},{self.azim},{self.zoom}"

    @classmethod
    def parse(cls, text: str) -> View:
        """From "elev,azim" or "elev,azim,zoom", or from the JSON file that the page saves."""
        path = Path(text)
        if path.suffix == ".json":
            from torchloupe.store.reading import reading

            with reading(path, "a view that the page saved, or elev,azim such as 25,-60"):
                saved = json.loads(path.read_text(encoding="utf-8"))
                return cls(float(saved["elev"]), float(saved["azim"]), float(saved.get("zoom", 1.0)))
        try:
            return cls(*map(float, text.split(",")))
        except BadInput:
            raise
        except (ValueError, TypeError):
            raise BadInput(
                f"view {text!r}: expected elev,azim or elev,azim,zoom in degrees, or a saved view.json"
            ) from None


@dataclass(frozen=True)
class Look:
    """How points are drawn.

    Attributes:
        title: Above the picture.
        fig_size: Width and height in inches.
        marker_size: Points squared; by the number of points where not given.
        color_by: A column: labels, ids, or any other. Default: labels.
        color_as: What the colours of the column mean; auto takes floats, and integers of many values, as numbers.
        shape_by: A second column, of up to 12 values, as the shape of the markers.
        name_by: Name the clusters of the map, beside them: by the majority of a column, by the typical words of a column of
            texts, or, with --images, by the picture in their middle: pictures.
        legend: list beside the plot, medians (names beside the classes), wheel (hues, and the largest named), none. auto: a
            list up to 20 classes, medians up to 100, then the wheel.
        alpha: From 0 to 1; by the number of points where not given.
        transparent: No background.
        view: Of a map of three dimensions: elev,azim or elev,azim,zoom in degrees, or a file saved by adjust-3d.
        images: A folder with the picture of every sample, drawn in place of markers where there is room.
        labels: Label columns from another file: .csv or .parquet joined by id, .npy or .npz in the same order.
        save_ext: Format: png jpg jpeg bmp tiff tif svg pdf; html is an interactive page, gif and mp4 a turntable.
        dense: Above so many points density is drawn in place of markers.
    """

    title: str | None = None
    fig_size: tuple[float, float] = (8.0, 8.0)
    marker_size: float | None = None
    color_by: str | None = None
    color_as: Literal["auto", "categories", "numbers"] = "auto"
    shape_by: str | None = None
    name_by: str | None = None
    legend: Literal["auto", "list", "medians", "wheel", "none"] = "auto"
    alpha: float | None = None
    transparent: bool = False
    view: str | None = None
    images: Path | None = None
    labels: Path | None = None
    save_ext: str | None = None
    dense: int = DENSE

    def __post_init__(self) -> None:
        if min(self.fig_size) <= 0 or max(self.fig_size) > 100:
            raise BadInput(f"figure size {self.fig_size}: expected inches, such as 8 8")
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise BadInput(f"alpha {self.alpha}: expected a number above 0, at most 1")
        if self.marker_size is not None and self.marker_size <= 0:
            raise BadInput(f"marker size {self.marker_size}: expected a number above 0")
        for name, value, known in (
            ("legend", self.legend, ("auto", "list", "medians", "wheel", "none")),
            ("color_as", self.color_as, ("auto", "categories", "numbers")),
        ):
            if value not in known:
                raise BadInput(f"{name} {value!r}: expected one of {', '.join(known)}")

    @property
    def seen(self) -> View:
        """The view as numbers."""
        return View() if self.view is None else View.parse(self.view)
