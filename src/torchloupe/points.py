"""Points: vectors with names and labels. A feature of every sample, or the place of every sample on a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, nearest

LABELS = "labels"


@dataclass(frozen=True)
class Points:
    """N points and what is known about each: row i of `feats`, `ids` and every column belong to the same sample.

    feats (N, D), or (N, c, p) for p body parts; may be a memory map. ids (N,) strings, unique.
    columns: name -> (N,) strings or numbers; "labels" is the one that pictures are coloured by unless asked otherwise.
    record: how the points were made (JSON-like); its "kind" is "features" or "projection".
    Raises BadInput where a column or the ids have another length than feats.
    """

    feats: np.ndarray
    ids: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.feats.ndim < 2:
            raise BadInput(f"feats: shape {self.feats.shape}, expected (samples, dimensions) or (samples, c, parts)")
        for name, column in (("ids", self.ids), *self.columns.items()):
            if column.shape != (len(self.feats),):
                found = f"{len(column)} values" if column.ndim == 1 else f"shape {column.shape}"
                raise BadInput(f"{name}: {found}, but feats has {len(self.feats)} rows; every row needs exactly one")

    def __len__(self) -> int:
        return len(self.feats)

    @property
    def labels(self) -> np.ndarray | None:
        """The column "labels", or None."""
        return self.columns.get(LABELS)

    def column(self, name: str) -> np.ndarray:
        """One column by name. Raises BadInput with the columns there are."""
        if name == "ids":
            return self.ids
        if name not in self.columns:
            known = ", ".join(self.columns) or "none"
            raise BadInput(f"no column {name!r}; columns: {known}.{nearest(name, self.columns)}")
        return self.columns[name]

    def take(self, rows: np.ndarray) -> Points:
        """The points of these rows, in this order."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Points(self.feats[rows], self.ids[rows], columns, self.record)

    def moved(self, feats: np.ndarray, record: Mapping[str, Any]) -> Points:
        """The same samples at other places: ids and columns stay, feats and record are replaced."""
        return Points(feats, self.ids, self.columns, record)
