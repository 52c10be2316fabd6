"""Samples of a data set on their way through a pipeline, and what is known of their pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from torchloupe.errors import BadInput

MODES = ("original", "transformed", "concat", "pipeline")
PHASES = ("train", "val", "test")


@dataclass(frozen=True)
class Marks:
    """What is known of one picture, in its own pixels.

    boxes (m, 4) x1 y1 x2 y2; names, one a box; keypoints (m, j, 3) x, y, visible (> 0); masks (m, h, w) bool or a
    label map (h, w) int; heat (h', w') >= 0 of any size, laid over the whole picture. outlines: of each of m objects its
    polygons, (k, 2) each, also the corners of turned boxes. legend: number in a label map -> name. bones: pairs of joints.
    joints: their names.
    """

    boxes: np.ndarray | None = None
    names: tuple[str, ...] = ()
    keypoints: np.ndarray | None = None
    masks: np.ndarray | None = None
    heat: np.ndarray | None = None
    outlines: tuple[tuple[np.ndarray, ...], ...] = ()
    legend: Mapping[int, str] = field(default_factory=dict)
    bones: tuple[tuple[int, int], ...] = ()
    joints: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is known."""
        return not self.placed and self.heat is None

    @property
    def placed(self) -> bool:
        """Whether something is known to be somewhere in the picture."""
        return bool(self.outlines) or any(value is not None for value in (self.boxes, self.keypoints, self.masks))


@dataclass(frozen=True)
class Step:
    """A step of a pipeline: its name, what it drew by chance, its pictures (h, w, 3) uint8 RGB (none: only named).

    marks: what is known of every picture; each: one a picture, in its place, where they differ (frames, mixtures).
    """

    name: str
    pictures: tuple[np.ndarray, ...] = ()
    told: str = ""
    marks: Marks = field(default_factory=Marks)
    each: tuple[Marks, ...] = ()

    def known(self, k: int) -> Marks:
        """What is drawn on picture number k."""
        return self.each[k] if self.each else self.marks


@dataclass(frozen=True)
class Sample:
    """One sample on its way through the pipeline; the first step with a picture is the original.

    file: the picture that several samples share, such as the people in it, so that they are no duplicates.
    fed: the label that goes with the last picture, where a step mixes labels. faults: what is wrong with the annotation,
    a line each. labels: its classes, where it has several. notes: what was taken for granted about it.
    """

    index: int
    name: str
    label: str
    steps: tuple[Step, ...]
    repeat: int = 0
    file: str = ""
    fed: str = ""
    faults: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def original(self) -> Step:
        """The first step with a picture; with the marks that are loaded right after it, where it has none."""
        shown = [step for step in self.steps if step.pictures]
        first = shown[0]
        if len(shown) > 1 and first.marks.empty and not first.each:
            same = len(first.pictures) == len(shown[1].pictures) and all(
                map(np.array_equal, first.pictures, shown[1].pictures)
            )
            return replace(first, marks=shown[1].marks) if same else first
        return first

    @property
    def transformed(self) -> Step:
        return next(step for step in reversed(self.steps) if step.pictures)


class BadSample(BadInput):
    """A sample that cannot be read or that a step refuses: which sample, which step, what it said."""

    def __init__(self, index: int, name: str, step: str, message: str) -> None:
        super().__init__(f"sample {index} ({name}): {step}: {message}")
        self.index, self.name, self.step, self.message = index, name, step, message


class Exhausted(Exception):
    """A stream has ended before the asked number of samples."""


class Feed(Protocol):
    """A data set with its pipeline. `sample` raises BadSample; `whole=False` asks for the original only."""

    name: str

    def __len__(self) -> int: ...

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample: ...
