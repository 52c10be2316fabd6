"""The same samples on the maps of several checkpoints, one map following the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.points import Points

COLUMN = "column/"


@dataclass(frozen=True)
class Film:
    """places (T, N, e): the maps, each laid on the one before; names (T,): what they are called; ids (N,) and columns as of Points.

    On disk: `places`, `names`, `ids` and `column/NAME`. The record tells numbers of every map and how far it is from the one before.
    """

    places: np.ndarray
    names: np.ndarray
    ids: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.places.ndim != 3 or self.places.shape[:2] != (len(self.names), len(self.ids)):
            raise BadInput(
                f"places {self.places.shape} of {len(self.names)} maps and {len(self.ids)} samples; expected (maps, samples,"
                " dimensions)"
            )

    def __len__(self) -> int:
        return len(self.places)

    def at(self, time: float) -> Points:
        """The points at a time from 0, the first map, to T - 1, the last one; between two maps on straight ways, slow at both ends."""
        before = min(max(int(np.floor(time)), 0), len(self) - 1)
        after, share = min(before + 1, len(self) - 1), time - before
        share = share * share * (3 - 2 * share)
        places = (1 - share) * self.places[before] + share * self.places[after]
        return Points(places.astype(np.float32), self.ids, self.columns, {"kind": "projection"})

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        held = {"places": self.places, "names": self.names, "ids": self.ids}
        return held | {f"{COLUMN}{name}": values for name, values in self.columns.items()}

    def row(self) -> dict[str, Any]:
        """How many maps of how many samples."""
        return {"maps": len(self), "samples": len(self.ids), "method": self.record.get("method", "")}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Film:
        """From disk. Errors: BadInput where something is missing or odd."""
        for wanted in ("places", "names", "ids"):
            if wanted not in arrays:
                raise BadInput(f"{name or 'result'}: no array {wanted!r}; expected places, names and ids of a film")
        columns = {key[len(COLUMN) :]: values for key, values in arrays.items() if key.startswith(COLUMN)}
        try:
            made = Points(arrays["places"][-1], arrays["ids"].astype(str), columns)
            return cls(arrays["places"], arrays["names"].astype(str), made.ids, made.columns, record)
        except (BadInput, IndexError) as error:
            raise BadInput(f"{name or 'result'}: {error}") from None
