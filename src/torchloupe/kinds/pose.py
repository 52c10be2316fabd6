"""Results of a pose diagnosis: one sample's attribution maps with their indices, or its predicted joints; and tables of them.

Both lie in a run's folder as streams: `ig/<sample>.npz` and `epe/<sample>.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from torchloupe.errors import BadInput
from torchloupe.store.stream import Stream

Array = NDArray[Any]
Some = TypeVar("Some", bound="Sample")
FIGURES = ("DI", "FI", "LI")
READINGS = ("EPE", "decoded")


@dataclass(frozen=True)
class Sample:
    """One sample of a run by the names of its arrays on disk; the record is that of the whole run, with the sample's id."""

    held: Mapping[str, Array]
    record: Mapping[str, Any]

    needed: ClassVar[tuple[str, ...]] = ("weight", "picture")

    def arrays(self) -> dict[str, Array]:
        """Its arrays by their names on disk."""
        return dict(self.held)

    @classmethod
    def read(cls: type[Some], arrays: Mapping[str, Array], record: Mapping[str, Any], name: str = "") -> Some:
        """From disk. Errors: BadInput where an array is missing."""
        lacking = [one for one in cls.needed if one not in arrays]
        if lacking:
            raise BadInput(
                f"{name or record.get('id', 'result')}: lacks {', '.join(lacking)}; is it a result of loupe pose?"
            )
        return cls(arrays, record)

    @property
    def joints(self) -> list[str]:
        """Names of the joints."""
        return list(self.record["skeleton"]["joints"])


class PoseMaps(Sample):
    """`loupe pose ig`: maps (k, h, w) of the joints asked about over their own maxima (absent where they were not kept),
    scale (k,), joints (k,), scores (k,); DI, FI, LI (j,) and RI (j, j); weight (j,), true (j, 2), mask, picture."""

    needed: ClassVar[tuple[str, ...]] = ("joints", "scores", "scale", "weight", "true", *FIGURES, "picture")

    @property
    def maps(self) -> Array:
        """(k, h, w), raw. Errors: BadInput where they were not kept."""
        if "maps" not in self.held:
            raise BadInput(
                f"sample {self.record.get('id')}: its maps were not kept (--no-save-ig); run `loupe pose ig` into a new folder"
            )
        return self.held["maps"].astype(np.float64) * self.held["scale"][:, None, None]

    def row(self) -> dict[str, Any]:
        """Mean indices over the joints asked about."""
        return {name: float(np.nanmean(self.held[name])) for name in FIGURES if np.isfinite(self.held[name]).any()}


class PoseErrors(Sample):
    """`loupe pose epe`: predicted and true (j, 2 or 3) in pixels of the input, decoded and annotated (j, 2) in those of the
    picture, confidence, EPE and weight (j,); size, centre, extent, area and score of the box; person, image, picture."""

    needed: ClassVar[tuple[str, ...]] = ("predicted", "true", "decoded", "annotated", "EPE", "weight", "picture")

    def row(self) -> dict[str, Any]:
        """Person and mean end-point error."""
        known = np.isfinite(self.held["EPE"]).any()
        return {
            "person": str(self.held.get("person", "")),
            "EPE": float(np.nanmean(self.held["EPE"])) if known else None,
        }


def table(stream: Stream, names: Sequence[str], ids: Sequence[str] | None = None) -> dict[str, Array]:
    """Arrays of the same name over samples, stacked: name -> (n, ...)."""
    found = [stream.arrays(id, names) for id in (stream.ids() if ids is None else ids)]
    return {name: np.stack([one[name] for one in found]) if found else np.zeros((0,)) for name in names}


@dataclass(frozen=True)
class Pixels:
    """Joints in pixels of the network's input, by sample: predicted and true (n, j, 2 or 3), weight (n, j), ids.

    zoom (n,): pixels of the input in one of the picture; 1 for camera units.
    """

    ids: tuple[str, ...]
    predicted: Array
    true: Array
    weight: Array
    zoom: Array

    @property
    def errors(self) -> Array:
        """Distances (n, j), NaN for joints that are not annotated."""
        away = np.linalg.norm(self.predicted - self.true, axis=-1)
        return np.where(self.weight > 0, away, np.nan)


def pixels(stream: Stream, reading: str = "EPE", ids: Sequence[str] | None = None) -> Pixels:
    """Stored joints in one of two readings.

    EPE: as the score of the maps reads them: soft-argmax of heatmaps, predicted and true; coordinates as they are.
    decoded: as published evaluations read them for PCK and AP: peaks, or the model's own codec; NaN in camera units.
    """
    settings = stream.settings()
    ids = tuple(stream.ids() if ids is None else ids)
    width, height = settings["crop"]["size"]
    names = ("predicted", "true") if reading == "EPE" else ("decoded", "annotated")
    rows, zoom = [], []
    for id in ids:
        kept = stream.arrays(id, (*names, "weight", "area", "extent"))
        # runs of earlier versions kept the extent's area only
        wide = kept["extent"][0] if "extent" in kept else np.sqrt(kept["area"] * width / height)
        zoom.append(1.0 if settings["coordinates"] == "camera" else width / float(wide))
        scale = zoom[-1] if reading == "decoded" else 1.0
        rows.append((kept[names[0]] * scale, kept[names[1]] * scale, kept["weight"]))
    stacked = [np.stack(part) for part in zip(*rows, strict=True)] if rows else [np.zeros((0, 0))] * 3
    return Pixels(ids, stacked[0], stacked[1], stacked[2], np.array(zoom))
