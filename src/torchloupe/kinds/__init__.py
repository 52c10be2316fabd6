"""Kinds of result: one dataclass each, which knows the names of its arrays, its record and its row in a table.

A kind of somebody else is known by an entry point of the group `torchloupe.kinds`: its name is the kind's, its value the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from torchloupe.errors import BadInput, nearest
from torchloupe.named import own, plugged, registered
from torchloupe.store.reading import reading

Self = TypeVar("Self", bound="Kind")


class Kind(Protocol):
    """What one sample gave. `record["kind"]` is its name; arrays and record are all there is of it on disk."""

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made: JSON-like, with the kind's name."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by their names on disk."""

    def row(self) -> dict[str, Any]:
        """Its line in the table of a run: plain numbers and words by the names of columns."""

    @classmethod
    def read(cls: type[Self], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Self:
        """From disk. Errors: BadInput where something is missing or odd, naming the result by `name`."""


HOMES: dict[str, str] = {
    "gait evaluation": "torchloupe.kinds.evaluation:Evaluation",
    "census": "torchloupe.kinds.census:Seen",
    "cka": "torchloupe.kinds.features:Likeness",
    "difference": "torchloupe.kinds.features:Difference",
    "feature": "torchloupe.kinds.points:Feature",
    "feature maps": "torchloupe.kinds.features:FeatureMaps",
    "features": "torchloupe.points:Points",
    "film": "torchloupe.kinds.film:Film",
    "gait maps": "torchloupe.kinds.sequences:SequenceMaps",
    "epe": "torchloupe.kinds.pose:PoseErrors",
    "ig": "torchloupe.kinds.pose:PoseMaps",
    "judged": "torchloupe.kinds.judged:Judged",
    "gait summary": "torchloupe.kinds.summary:Summary",
    "maps": "torchloupe.kinds.maps:Heatmaps",
    "points": "torchloupe.points:Points",
    "projection": "torchloupe.points:Points",
}
"""Kind -> where its class is."""


def known() -> tuple[str, ...]:
    """The names of all kinds, installed ones included."""
    return tuple(sorted({*HOMES, *registered("kinds")}))


def kind(name: str) -> type[Any]:
    """The class of a kind. Errors: BadInput for one that is not known, or that cannot be imported."""
    if name in HOMES:
        found: type[Any] = own(HOMES[name])
        return found
    if (point := registered("kinds").get(name)) is not None:
        return plugged(point)
    raise BadInput(f"no kind of result {name!r}; known: {', '.join(known())}.{nearest(name, known())}")


SIGNS: Mapping[str, str] = {"answer_imgs": "gait maps", "feats": "points", "RI": "pose maps", "decoded": "pose joints"}
"""An array that tells the kind where there is no record."""


def kind_of(arrays: Mapping[str, Any], record: Mapping[str, Any], name: str = "result") -> str:
    """The kind that a record tells, or the arrays of a result without one. Errors: BadInput where nothing tells it."""
    told = record.get("kind") or next((kind for sign, kind in SIGNS.items() if sign in arrays), None)
    if not isinstance(told, str):
        raise BadInput(f"{name}: no 'kind' in its record; is it a result of loupe?")
    return told


def read(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Any:
    """A stored result as its kind says. Errors: BadInput for an unknown kind, or what the kind says of it."""
    told = kind_of(arrays, record, name or "result")
    with reading(name or "result", f"a result of kind {told!r}"):
        return kind(told).read(arrays, record, name)
