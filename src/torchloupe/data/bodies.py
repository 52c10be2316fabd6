"""What pose data are made of: skeletons, people with known joints, the crop that a network is fed, and its geometry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.errors import BadInput
from torchloupe.store import sha256

Array = NDArray[Any]


@dataclass(frozen=True)
class Skeleton:
    """The joints of a kind of body: names, left-right partners, bones, and the spread of each in OKS."""

    name: str
    joints: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    bones: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()


_SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_BODY_BONES = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
COCO_BODY = Skeleton(
    "coco",
    ("nose", *(f"{side}_{part}" for part in _SIDED for side in ("left", "right"))),
    tuple((i, i + 1) for i in range(1, 17, 2)),
    _BODY_BONES,
    tuple(s for value in (0.025, 0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089) for s in (value, value)),
)
COCO_BODY = replace(COCO_BODY, sigmas=(0.026, *COCO_BODY.sigmas))
MPII_BODY = Skeleton(
    "mpii",
    (
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax"),
        *("upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder"),
        *("left_shoulder", "left_elbow", "left_wrist"),
    ),
    ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    (
        *((0, 1), (1, 2), (2, 6), (5, 4), (4, 3), (3, 6), (6, 7), (7, 8), (8, 9)),
        *((10, 11), (11, 12), (12, 7), (15, 14), (14, 13), (13, 7)),
    ),
)
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
HAND = Skeleton(
    "hand",
    ("wrist", *(f"{finger}{i}" for finger in _FINGERS for i in range(1, 5))),
    (),
    tuple((0 if i % 4 == 1 else i - 1, i) for i in range(1, 21)),
)


def _whole_body() -> Skeleton:
    """The 17 joints of the body, 6 of the feet, 68 of the face and 21 of each hand, as COCO-WholeBody counts them."""
    sides = ("left", "right")
    feet = tuple(f"{side}_{part}" for side in sides for part in ("big_toe", "small_toe", "heel"))
    hands = tuple(f"{side}_{name}" for side in sides for name in ("hand_root", *HAND.joints[1:]))
    # in the order of a face's landmarks: jaw, brows, bridge, nostrils, eyes, outer and inner lips; each row by its mirror
    rows = ((0, 16), (17, 26), (31, 35), (48, 54), (55, 59), (60, 64), (65, 67))
    facing = [(low + i, high - i) for low, high in rows for i in range((high - low + 1) // 2)]
    facing += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs = (
        *COCO_BODY.pairs,
        *((17 + i, 20 + i) for i in range(3)),
        *((23 + a, 23 + b) for a, b in facing),
        *((91 + i, 112 + i) for i in range(21)),
    )
    bones = (
        *COCO_BODY.bones,
        *((15 + foot // 3, 17 + foot) for foot in range(6)),
        *((start + a, start + b) for start in (91, 112) for a, b in HAND.bones),
    )
    foot = (0.068, 0.066, 0.066, 0.092, 0.094, 0.094)
    face = (
        *(
            0.042,
            0.043,
            0.044,
            0.043,
            0.040,
            0.035,
            0.031,
            0.025,
            0.020,
            0.023,
            0.029,
            0.032,
            0.037,
            0.038,
            0.043,
            0.041,
            0.045,
        ),
        *(
            0.013,
            0.012,
            0.011,
            0.011,
            0.012,
            0.012,
            0.011,
            0.011,
            0.013,
            0.015,
            0.009,
            0.007,
            0.007,
            0.007,
            0.012,
            0.009,
            0.008,
        ),
        *(
            0.016,
            0.010,
            0.017,
            0.011,
            0.009,
            0.011,
            0.009,
            0.007,
            0.013,
            0.008,
            0.011,
            0.012,
            0.010,
            0.034,
            0.008,
            0.008,
            0.009,
        ),
        *(
            0.008,
            0.008,
            0.007,
            0.010,
            0.008,
            0.009,
            0.009,
            0.009,
            0.007,
            0.007,
            0.008,
            0.011,
            0.008,
            0.008,
            0.008,
            0.010,
            0.008,
        ),
    )
    hand = (
        *(0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024),
        *(0.022, 0.026, 0.017, 0.021, 0.021, 0.032, 0.020, 0.019, 0.022, 0.031),
    )
    joints = (*COCO_BODY.joints, *feet, *(f"face-{i}" for i in range(68)), *hands)
    return Skeleton("wholebody", joints, pairs, bones, (*COCO_BODY.sigmas, *foot, *face, *hand, *hand))


WHOLE_BODY = _whole_body()
"""Source: Jin et al. 2020, Whole-Body Human Pose Estimation in the Wild, ECCV, arXiv:2007.11858, whose spreads these are."""

WHOLE_PARTS: Mapping[str, tuple[int, int]] = {
    "body": (0, 17),
    "feet": (17, 23),
    "face": (23, 91),
    "left hand": (91, 112),
    "right hand": (112, 133),
}
"""Part of the whole body -> its joints, [first, last)."""


@dataclass(frozen=True)
class Person:
    """One body in one picture. Joints in pixels of the picture; weight 0 says that a joint is not annotated.

    picture: its file, or its pixels (h, w, 3) uint8. centre, extent: of the crop, from `frame` of a box. segmentation: polygons,
    a run-length code or a mask (h, w). camera: joints (j, 3) in units of their own, for models in 3D.
    """

    id: str
    image_id: int | str
    picture: Path | Array
    centre: tuple[float, float]
    extent: tuple[float, float]
    joints: Array
    weight: Array
    score: float = 1.0
    area: float = 0.0
    size: float = 0.0
    segmentation: Any = None
    camera: Array | None = None


@dataclass(frozen=True)
class PoseData:
    """Bodies in a fixed order, the skeleton that they share, and how many annotations were left out and why.

    source: the annotation file, or any name of a data set made otherwise. categories: of the bodies in a COCO file.
    Errors: BadInput for a person whose joints do not fit the skeleton.
    """

    people: tuple[Person, ...]
    skeleton: Skeleton
    source: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    categories: tuple[Any, ...] = (1,)

    def __post_init__(self) -> None:
        count = len(self.skeleton.joints)
        for i, person in enumerate(self.people):
            found = np.shape(person.joints), np.shape(person.weight)
            if found != ((count, 2), (count,)):
                raise BadInput(
                    f"person {i}: joints and weight are expected to be {(count, 2)} and {(count,)}, as the skeleton has "
                    f"{count} joints; found {found[0]} and {found[1]}"
                )

    def __len__(self) -> int:
        return len(self.people)

    def sha256(self) -> str:
        """A hash of the annotation file; of the people themselves, where they came from none."""
        if Path(self.source).is_file():
            return sha256(self.source)
        digest = hashlib.sha256()
        for person in self.people:
            for value in vars(person).values():
                digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Crop:
    """What the network is fed: sizes (width, height) in pixels, spread of the true heatmaps, colours.

    udp: sides are counted between the middles of their outermost pixels, W - 1, in crop and heatmaps alike (Huang et al.
    2020, arXiv:1911.07524). subpixel: true heatmaps stand where the joint is, not on the nearest heatmap pixel.
    whole_box: the annotated box is taken as it is, not one pixel less as HRNet's evaluation does.
    """

    size: tuple[int, int] = (192, 256)
    heatmap: tuple[int, int] = (48, 64)
    sigma: float = 2.0
    rgb: bool = True
    padding: float = 1.25
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    udp: bool = False
    subpixel: bool = False
    whole_box: bool = False

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise BadInput(f"the spread of true heatmaps (MODEL.SIGMA, --sigma) is more than 0, found {self.sigma}")
        if min(*self.size, *self.heatmap) < 1:
            raise BadInput(
                f"a crop of {list(self.size)} pixels with heatmaps of {list(self.heatmap)}: expected 1 or more"
            )

    @property
    def stride(self) -> Array:
        """Pixels of the crop in one of a heatmap, across and down."""
        return (np.array(self.size) - self.udp) / (np.array(self.heatmap) - self.udp)

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.size[0] / self.size[1]


@dataclass(frozen=True)
class Sample:
    """A crop ready for the network, with its truth in the crop's own pixels."""

    x: Array  # (3, h, w) normalised
    picture: Array  # (h, w, 3) uint8, as a person sees it
    joints: Array  # (j, 2) pixels of the crop
    weight: Array  # (j,) 0 or 1
    heatmaps: Array  # (j, heatmap height, heatmap width)
    mask: Array  # (h, w) 0 or 1; all NaN where the annotation has no outline
    camera: Array  # (j, 3) as annotated, or all NaN


def frame(box: Sequence[float], crop: Crop) -> tuple[tuple[float, float], tuple[float, float]]:
    """(x, y, width, height) -> centre and extent of the padded box with the crop's aspect, in pixels."""
    x, y, width, height = box
    wide, high = max(width, crop.aspect * height), max(height, width / crop.aspect)
    return (x + width / 2, y + height / 2), (wide * crop.padding, high * crop.padding)


def affine(centre: Sequence[float], extent: Sequence[float], size: Sequence[int], udp: bool = False) -> Array:
    """The 2 x 3 matrix picture -> crop of the given size: the extent's width fills the crop's width.

    udp: the extent fills the crop from the middle of its first pixel to that of its last.
    Differs: no rotation, which testing never uses.
    """
    across = (size[0] - udp) / extent[0]
    down = (size[1] - udp) / extent[1] if udp else across
    return np.array(
        [
            [across, 0.0, (size[0] - udp) / 2 - across * centre[0]],
            [0.0, down, (size[1] - udp) / 2 - down * centre[1]],
        ]
    )


def moved(points: Array, matrix: Array) -> Array:
    """Points (..., 2) under a 2 x 3 matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: Array) -> Array:
    """The 2 x 3 matrix that undoes a 2 x 3 matrix."""
    back = np.linalg.inv(matrix[:, :2])
    return np.concatenate([back, -back @ matrix[:, 2:]], 1)
