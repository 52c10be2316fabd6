"""What a network holds at its points, how far two networks lie apart there, and how alike all their layers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.kinds.pictured import Pictured


def drawable(value: np.ndarray, label: str = "") -> None:
    """Features (c, t, h, w) of a point can be drawn. Errors: BadInput for a map without extent, a vector, and values that are not
    finite."""
    if value.ndim != 4 or not value.size:
        raise BadInput(f"point {label!r}: features of shape {value.shape}; expected (c, t, h, w)")
    if value.shape[2:] == (1, 1):
        raise BadInput(
            f"point {label!r}: a vector of {value.shape[0]} channels without image axes, which cannot be drawn as a map; name a "
            "layer before it (loupe diff --cka takes vectors)"
        )
    if not np.isfinite(value).all():
        raise BadInput(f"point {label!r}: not finite (NaN or infinite); check the weights and the input")


@dataclass(frozen=True)
class FeatureMaps(Pictured):
    """One picture or walk: point -> features (c, t, h, w). On disk `value/POINT`, with the picture (t, h, w, 3) and a detector's
    detections (m, 6). told: how it was made, with statistics of every point, but for the kind's name."""

    values: Mapping[str, np.ndarray]
    picture: np.ndarray | None = None
    detections: np.ndarray | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made, with the kind's name."""
        return {**self.told, "kind": "feature maps"}

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        extra = {"picture": self.picture, "detections": self.detections}
        return {f"value/{point}": value for point, value in self.values.items()} | _there(extra)

    def row(self) -> dict[str, Any]:
        """Of every point the mean, the share of exact zeros and the effective rank."""
        shown = ("mean", "zeros", "effective_rank")
        rows = dict(self.told.get("statistics", {})).items()
        return {f"{point} {name}": figures[name] for point, figures in rows for name in shown if name in figures}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> FeatureMaps:
        """From disk. Errors: BadInput where a point of the record has no features."""
        values = {point: _array(arrays, f"value/{point}", name) for point in record.get("points", ())}
        return cls(values, arrays.get("picture"), arrays.get("detections"), dict(record))


@dataclass(frozen=True)
class Difference(Pictured):
    """One picture in two networks, or two in one: point -> features of both sides. On disk `a/POINT`, `b/POINT`, with the picture
    and, where the second side saw another, other. told: how it was made, with figures about every point."""

    first: Mapping[str, np.ndarray]
    second: Mapping[str, np.ndarray]
    picture: np.ndarray | None = None
    other: np.ndarray | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made, with the kind's name."""
        return {**self.told, "kind": "difference"}

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        sides = {f"a/{point}": value for point, value in self.first.items()}
        sides |= {f"b/{point}": value for point, value in self.second.items()}
        return sides | _there({"picture": self.picture, "other": self.other})

    def row(self) -> dict[str, Any]:
        """The mean difference at every point."""
        return {f"{point} mean": one["mean"] for point, one in dict(self.told.get("figures", {})).items()}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Difference:
        """From disk. Errors: BadInput where a point of the record has no features."""
        sides = [
            {point: _array(arrays, f"{side}/{point}", name) for point in record.get("points", ())} for side in "ab"
        ]
        return cls(sides[0], sides[1], arrays.get("picture"), arrays.get("other"), dict(record))


@dataclass(frozen=True)
class Likeness(Pictured):
    """Linear CKA of every layer of one network with every layer of another: cka (rows, columns), NaN where it is not defined."""

    cka: np.ndarray
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made, with the kind's name."""
        return {**self.told, "kind": "cka"}

    def arrays(self) -> dict[str, np.ndarray]:
        """The array by its name on disk."""
        return {"cka": self.cka}

    def row(self) -> dict[str, Any]:
        """The least and the greatest value."""
        known = self.cka[np.isfinite(self.cka)]
        return {"least": float(known.min()), "greatest": float(known.max())} if len(known) else {}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Likeness:
        """From disk. Errors: BadInput where it is no matrix of the record's rows and columns."""
        found = _array(arrays, "cka", name)
        if found.shape != (len(record.get("rows", ())), len(record.get("columns", ()))):
            raise BadInput(f"{name or 'result'}: a matrix of {found.shape} for {len(record.get('rows', ()))} rows")
        return cls(found, dict(record))


def _there(arrays: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    return {name: value for name, value in arrays.items() if value is not None}


def _array(arrays: Mapping[str, np.ndarray], key: str, name: str) -> np.ndarray:
    if key not in arrays:
        raise BadInput(f"{name or 'result'}: lacks {key}; make it again with loupe features or loupe diff")
    return arrays[key]
