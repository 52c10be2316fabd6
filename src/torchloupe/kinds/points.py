"""The feature of one sample, as a run of `loupe embed` keeps it until all are there. Files of points are `points.Points`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchloupe.errors import BadInput


@dataclass(frozen=True)
class Feature:
    """values (D,) or (c, p): what a layer says of one sample. predicted: the number of a classifier's best class, or None.

    On disk: `feats`, and `predicted` where there is one.
    """

    values: np.ndarray
    predicted: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        held = {"feats": self.values}
        return held if self.predicted is None else {**held, "predicted": np.array(self.predicted)}

    def row(self) -> dict[str, Any]:
        """How many numbers, their length as a vector, and the number of the best class."""
        told = {"numbers": int(self.values.size), "length": float(np.linalg.norm(self.values))}
        return told if self.predicted is None else {**told, "predicted": self.predicted}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Feature:
        """From disk. Errors: BadInput where it holds no numbers."""
        if "feats" not in arrays or arrays["feats"].dtype.kind not in "fiu":
            raise BadInput(f"{name or 'result'}: no feature in it; expected the array 'feats' of numbers")
        best = arrays.get("predicted")
        return cls(arrays["feats"], None if best is None else int(best.ravel()[0]), record)
