"""Where a pipeline's steps put the pixels of a picture, told by what they note down, and whether its annotation went along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from torchloupe.data.samples import Marks

SAME = 1e-4
# Steps that move pixels without changing the size of the picture and without a note of it.
UNTOLD = ("affine", "rotate", "shear", "translate", "perspective", "mosaic", "mixup", "shift", "crop", "expand", "albu",
          "warp", "copypaste", "randaugment", "autoaugment", "elastic")  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What a sample of OpenMMLab noted down before a step: the height and width of its picture, and the moves so far."""

    size: tuple[int, int] | None
    homography: Any
    padding: Any
    marks: Marks

    @classmethod
    def of(cls, results: Mapping[str, Any], marks: Marks) -> Seen:
        shape = getattr(results.get("img"), "shape", None)
        size = None if shape is None or len(shape) < 2 else (int(shape[0]), int(shape[1]))
        return cls(size, results.get("homography_matrix"), results.get("pad_param"), marks)


def movement(transform: Any, before: Seen, results: Mapping[str, Any]) -> np.ndarray | None:
    """The 3 x 3 matrix from pixels before a step to pixels after it; None where the step does not tell.

    mmdet's steps keep a homography; mmcv's tell by flip and flip_direction and by the sizes before and after, padding
    lies to the right and below unless pad_param says otherwise.
    """
    found = results.get("homography_matrix")
    if found is not None and found is not before.homography:
        old = np.eye(3) if before.homography is None else np.asarray(before.homography, float)
        return np.asarray(found, float) @ np.linalg.inv(old)
    size = Seen.of(results, Marks()).size
    if size is None or before.size is None:
        return np.eye(3)
    name = " ".join(one.__name__ for one in type(transform).__mro__).lower()
    (h, w), (rows, columns) = before.size, size
    if "flip" in name:
        direction = str(results.get("flip_direction") or "") if results.get("flip") else ""
        return mirror(direction, w, h)
    if "resize" in name:
        padding = results.get("pad_param")
        if padding is not None and padding is not before.padding:
            # Letterboxes: top, bottom, left, right around the resized picture.
            top, bottom, left, right = (float(one) for one in padding)
            made = np.diag([(columns - left - right) / w, (rows - top - bottom) / h, 1.0])
            made[:2, 2] = left, top
            return made
        return np.diag([columns / w, rows / h, 1.0])
    if "centercrop" in name and "pad" not in name and rows <= h and columns <= w:
        made = np.eye(3)
        made[:2, 2] = -max(0, round((w - columns) / 2)), -max(0, round((h - rows) / 2))
        return made
    if "pad" in name and "crop" not in name and rows >= h and columns >= w:
        return np.eye(3)
    return np.eye(3) if size == before.size and not any(word in name for word in UNTOLD) else None


def mirror(direction: str, w: int, h: int) -> np.ndarray:
    """horizontal: x -> w - x; vertical: y -> h - y; diagonal: both; anything else leaves a picture as it is."""
    made = np.eye(3)
    if direction in ("horizontal", "diagonal"):
        made[0] = -1, 0, w
    if direction in ("vertical", "diagonal"):
        made[1] = 0, -1, h
    return made


def moved(marks: Marks, matrix: np.ndarray, size: tuple[int, int]) -> Marks:
    """Marks of a picture whose pixels go p -> matrix p, on the new picture of size (h, w); boxes are upright around it."""
    boxes, points = marks.boxes, marks.keypoints
    if boxes is not None:
        x0, y0, x1, y1 = boxes.T
        edges = _points(np.stack([x0, y0, x1, y0, x0, y1, x1, y1], 1).reshape(-1, 4, 2), matrix)
        boxes = np.concatenate([edges.min(1), edges.max(1)], 1)
    if points is not None:
        points = np.concatenate([_points(points[..., :2], matrix), points[..., 2:]], -1)
    masks = None if marks.masks is None else _masks(marks.masks, matrix, size)
    outlines = tuple(tuple(_points(line, matrix) for line in lines) for lines in marks.outlines)
    return replace(marks, boxes=boxes, keypoints=points, masks=masks, outlines=outlines)


def _points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (..., 2) -> matrix (x, y, 1)."""
    made = np.concatenate([points, np.ones_like(points[..., :1])], -1) @ matrix.T
    return made[..., :2] / made[..., 2:]


def _masks(masks: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks (m, h, w) or a label map (h, w), each pixel from the one that its middle comes from; 0 outside."""
    h, w = masks.shape[-2:]
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    from_ = np.floor(_points(np.stack([x, y], -1) + 0.5, np.linalg.inv(matrix))).astype(int)
    x, y = from_[..., 0], from_[..., 1]
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    return np.where(inside, masks[..., y.clip(0, h - 1), x.clip(0, w - 1)], 0).astype(masks.dtype)


@dataclass
class Course:
    """Where the picture of one sample has gone since it was loaded, and whether its annotation went along.

    Annotation that is loaded behind a step that moved the picture, as test pipelines do, is in the file's pixels: it is
    drawn where the picture has gone. faults: a line for each step at which picture and annotation part.
    """

    matrix: np.ndarray | None = field(default_factory=lambda: np.eye(3))
    loaded: Marks | None = None
    late: bool = False
    untold: str = ""
    faults: list[str] = field(default_factory=list)

    def step(
        self, title: str, transform: Any, before: Seen, results: Mapping[str, Any], marks: Marks
    ) -> tuple[Marks, str]:
        """The marks to draw after a step, in pixels of the picture, and what to tell of them."""
        step = movement(transform, before, results)
        if step is None or self.matrix is None:
            self.untold, self.matrix = self.untold or title, None
        else:
            self.matrix = step @ self.matrix
        size = Seen.of(results, marks).size
        if self.loaded is None:
            if marks.placed:
                self.loaded = marks
                self.late = self.matrix is None or not np.allclose(self.matrix, np.eye(3), atol=SAME)
            return self._late(marks, size) if self.loaded is not None and self.late else (marks, "")
        if self.late:
            if not marks.placed or size is None or same(marks, self.loaded):
                return self._late(marks, size)
            self.late = False
            self.faults.append(
                f"{title}: moves annotation that was loaded in the file's pixels, behind a resized picture"
            )
            return marks, "annotation and picture part here"
        if step is None or size is None or np.allclose(step, np.eye(3), atol=SAME) or not before.marks.placed:
            return marks, ""
        if self._left_behind(before.marks, marks, step, size):
            self.faults.append(f"{title}: moves the picture, but not its annotation")
            return marks, "annotation and picture part here"
        return marks, ""

    def _late(self, marks: Marks, size: tuple[int, int] | None) -> tuple[Marks, str]:
        if not marks.placed or size is None:
            return marks, ""
        if self.matrix is None:
            return marks, f"annotation in the file's pixels; {self.untold} does not tell where they went"
        if np.allclose(self.matrix, np.eye(3), atol=SAME):
            return marks, ""
        return moved(marks, self.matrix, size), "annotation of the file, drawn where the picture went"

    def _left_behind(self, before: Marks, after: Marks, step: np.ndarray, size: tuple[int, int]) -> bool:
        """Whether boxes or points stayed to the last digit though the step moves them by a pixel or more."""
        goal = moved(replace(before, masks=None, outlines=()), step, size)
        for old, new, wanted in (
            (before.boxes, after.boxes, goal.boxes),
            (before.keypoints, after.keypoints, goal.keypoints),
        ):
            if old is not None and new is not None and wanted is not None and len(old) and old.shape == new.shape:
                return bool(np.array_equal(old, new) and np.abs(wanted - old).max() >= 1)
        return False


def same(one: Marks, other: Marks) -> bool:
    """Whether boxes and points are the same to the last digit."""
    for a, b in ((one.boxes, other.boxes), (one.keypoints, other.keypoints)):
        if a is None or b is None:
            if a is not b:
                return False
        elif not np.array_equal(a, b):
            return False
    return True
