"""The names of a pose diagnosis in one place, for tests."""

from __future__ import annotations

from torchloupe.kinds.pose import READINGS, PoseErrors, PoseMaps, pixels, table
from torchloupe.runs.pose.attribution import (
    PLACES,
    Attribution,
    attribute,
    chance,
    expected_bytes,
    read_indices,
    stored_indices,
)
from torchloupe.runs.pose.compare import compare
from torchloupe.runs.pose.confusion import confusion
from torchloupe.runs.pose.depend import depend
from torchloupe.runs.pose.errors import average_precision, errors
from torchloupe.runs.pose.study import Reading, Study, chosen, load, outputs, study, thinned
from torchloupe.sources.poses import coco, read

__all__ = [
    "PLACES",
    "READINGS",
    "Attribution",
    "PoseErrors",
    "PoseMaps",
    "Reading",
    "Study",
    "attribute",
    "average_precision",
    "chance",
    "chosen",
    "coco",
    "compare",
    "confusion",
    "depend",
    "errors",
    "expected_bytes",
    "load",
    "outputs",
    "pixels",
    "read",
    "read_indices",
    "stored_indices",
    "study",
    "table",
    "thinned",
]
