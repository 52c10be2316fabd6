"""OpenGait's augmentations of walks by chance: silhouettes (t, h, w), poses (t, joints, 3), point clouds (t, n, 3)."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from einops import rearrange

from torchloupe.errors import BadInput
from torchloupe.networks.gait.skeletons import skeleton


def _flip(array: np.ndarray) -> tuple[np.ndarray, str]:
    return array[..., ::-1], "mirrored"


def _erase(
    array: np.ndarray, sl: float = 0.05, sh: float = 0.2, r1: float = 0.3, per_frame: bool = False, prob: float = 0.5
) -> tuple[np.ndarray, str]:
    """A rectangle of a share sl to sh of the area and a ratio r1 to 1/r1 is black: in all frames, or one in each."""
    rows, columns = array.shape[-2:]
    made, told = np.array(array), "not applied"
    for frames in _frames(made, per_frame):
        if random.uniform(0, 1) >= prob:
            continue
        for _ in range(100):
            area, ratio = random.uniform(sl, sh) * rows * columns, random.uniform(r1, 1 / r1)
            high, wide = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if high < rows and wide < columns:
                top, left = random.randint(0, rows - high), random.randint(0, columns - wide)
                frames[..., top : top + high, left : left + wide] = 0
                told = "one a frame" if per_frame else f"{wide}x{high} at {left}, {top}"
                break
    return made, told


def _frames(array: np.ndarray, one_by_one: bool) -> list[np.ndarray]:
    """The frames one by one, each to its own chance, or all of them at once."""
    return [array[k : k + 1] for k in range(len(array))] if one_by_one else [array]


def _rotate(array: np.ndarray, degree: float = 10) -> tuple[np.ndarray, str]:
    rows, columns = array.shape[-2:]
    angle = random.uniform(-degree, degree)
    turn = np.radians(angle)
    # OpenGait counts the centre's x from the height.
    x, y = rows // 2, columns // 2
    c, s = np.cos(turn), np.sin(turn)
    back = np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y], [0, 0, 1]])
    return warped(array, back), f"{angle:.1f} degrees"


def _perspective(array: np.ndarray) -> tuple[np.ndarray, str]:
    rows, columns = array.shape[-2:]
    reach = columns // 44 * 10
    if reach < 1:
        raise BadInput(f"frames {columns} wide; RandomPerspective takes 44 or more")
    a, b, c, d = (random.randrange(reach) for _ in range(4))
    x = (a, columns - reach + b, columns - reach + c, d)
    goal = [(0, 0), (columns, 0), (columns, rows), (0, rows)]
    source = list(zip(x, (0, 0, rows, rows), strict=True))
    return warped(array, _homography(goal, source)), f"top {x[0]} to {x[1]}, bottom {x[3]} to {x[2]}"


def _affine(array: np.ndarray, **_: Any) -> tuple[np.ndarray, str]:
    rows, columns = array.shape[-2:]
    reach = max(1, rows // 64 * 10)

    def corners() -> np.ndarray:
        def near() -> int:
            return random.randrange(reach)

        return np.array([[near(), near(), 1], [rows - near(), near(), 1], [near(), columns - near(), 1]], float)

    source, goal = corners(), corners()
    back = np.linalg.solve(goal, source).T
    back[2] = 0, 0, 1
    return warped(array, back), f"shift {back[0, 2]:.1f}, {back[1, 2]:.1f}"


def _homography(goal: Sequence[tuple[float, float]], source: Sequence[tuple[float, float]]) -> np.ndarray:
    """The 3 x 3 matrix that takes four goal points to four source points."""
    rows, right = [], []
    for (x, y), (u, v) in zip(goal, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows, float), np.array(right, float)), 1).reshape(3, 3)


def warped(array: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Frames (t, h, w) with value(p) = value(back p), p = (x, y, 1) of pixel centres; bilinear, black outside."""
    rows, columns = array.shape[-2:]
    y, x = np.mgrid[0:rows, 0:columns]
    u, v, w = np.einsum("ij,jhw->ihw", back, np.stack([x, y, np.ones_like(x)]).astype(float))
    u, v = np.clip(u / w, -1, columns) + 1, np.clip(v / w, -1, rows) + 1
    padded = np.pad(array.astype(float), [(0, 0)] * (array.ndim - 2) + [(1, 2), (1, 2)])
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    across, down = u - left, v - top
    upper = padded[..., top, left] * (1 - across) + padded[..., top, left + 1] * across
    lower = padded[..., top + 1, left] * (1 - across) + padded[..., top + 1, left + 1] * across
    made = upper * (1 - down) + lower * down
    return np.rint(made).astype(array.dtype) if array.dtype.kind in "ui" else made


KERNELS = {"RECT": ((5, 3), (5, 5), (3, 5)), "CROSS": ((3, 3), (3, 5), (5, 3)), "ELLIPSE": ((3, 3), (3, 5), (5, 3))}


def kernel(shape: str, wide: int, high: int) -> np.ndarray:
    """A structuring element (high, wide) bool: RECT, CROSS or ELLIPSE, as OpenCV draws it."""
    if shape == "RECT":
        return np.ones((high, wide), bool)
    if shape == "CROSS":
        made = np.zeros((high, wide), bool)
        made[high // 2], made[:, wide // 2] = True, True
        return made
    y, x = np.arange(high) - high // 2, np.arange(wide) - wide // 2
    reach = np.rint(wide // 2 * np.sqrt(1 - (y / (high // 2)) ** 2))
    return np.abs(x) <= reach[:, None]


def dilated(array: np.ndarray, element: np.ndarray) -> np.ndarray:
    """Frames (t, h, w) >= 0: the greatest value below the structuring element around each pixel."""
    high, wide = element.shape
    rows, columns = array.shape[-2:]
    padded = np.pad(array, [(0, 0), (high // 2, high // 2), (wide // 2, wide // 2)])
    places = np.argwhere(element)
    return np.max([padded[:, y : y + rows, x : x + columns] for y, x in places], axis=0)


def blurred(array: np.ndarray) -> np.ndarray:
    """Frames (t, h, w) with weights 1/4, 1/2, 1/4 down and across, mirrored at the border: OpenCV's Gaussian of 3 x 3."""
    for axis in (-2, -1):
        if array.shape[axis] < 2:
            continue
        padded = np.pad(array, [(0, 0)] * (array.ndim + axis) + [(1, 1)] + [(0, 0)] * (-1 - axis), mode="reflect")
        before, middle, after = (np.take(padded, np.arange(k, k + array.shape[axis]), axis) for k in range(3))
        array = before / 4 + middle / 2 + after / 4
    return array


def _band(top_range: Sequence[int], bot_range: Sequence[int]) -> slice:
    return slice(random.randint(*top_range), random.randint(*bot_range))


def _dilate(
    array: np.ndarray, top_range: Sequence[int] = (12, 16), bot_range: Sequence[int] = (36, 40)
) -> tuple[np.ndarray, str]:
    """Rows from top to bottom grow: another coat."""
    shape = random.choice(list(KERNELS))
    wide, high = random.choice(KERNELS[shape])
    rows = _band(top_range, bot_range)
    made = np.array(array)
    made[:, rows] = dilated(made[:, rows], kernel(shape, wide, high))
    return made, f"{shape.lower()} {wide}x{high}, rows {rows.start} to {rows.stop}"


def _blur(
    array: np.ndarray,
    top_range: Sequence[int] = (9, 20),
    bot_range: Sequence[int] = (29, 40),
    per_frame: bool = False,
    prob: float = 0.5,
) -> tuple[np.ndarray, str]:
    """Rows from top to bottom are blurred and cut at 0.2, for silhouettes from 0 to 1."""
    made, told = np.array(array, dtype=float), "not applied"
    for frames in _frames(made, per_frame):
        if random.uniform(0, 1) < prob:
            rows = _band(top_range, bot_range)
            frames[:, rows] = blurred(frames[:, rows]) > 0.2
            told = "in each frame by itself" if per_frame else f"rows {rows.start} to {rows.stop}"
    return made, told


def _mirror_places(pose: np.ndarray) -> tuple[np.ndarray, str]:
    """x is mirrored about its mean over the joints of each frame."""
    made = np.array(pose)
    made[..., 0] = 2 * pose[..., 0].mean(1, keepdims=True) - pose[..., 0]
    return made, "mirrored"


# The twelve joints of MSGG, limb by limb, in the numbering of each format.
MSGG_JOINTS = {
    "coco": (6, 8, 14, 12, 7, 13, 5, 10, 16, 11, 9, 15),
    "openpose": (2, 3, 9, 8, 6, 12, 5, 4, 10, 11, 7, 13),
}


def _twelve(pose: np.ndarray, joint_format: str = "coco") -> tuple[np.ndarray, str]:
    joints = list(MSGG_JOINTS["coco" if joint_format == "coco" else "openpose"])
    if pose.shape[1] <= max(joints):
        raise BadInput(f"poses of {pose.shape[1]} joints; joint_format {joint_format} has {max(joints) + 1} or more")
    return pose[:, joints], f"{len(joints)} of {pose.shape[1]} joints"


def _clouds(
    points: np.ndarray,
    xyz_only: bool = True,
    scale_aware: bool = False,
    drop_prob: float = 0,
    shift_prob: float = 0,
    jit_prob: float = 0,
    scale_prob: float = 0,
    flip_prob: float = 0,
) -> tuple[np.ndarray, str]:
    """Points (t, n, 3 or more) about their mean, the farthest at distance 1; by chance mirrored in y, shifted by up to
    0.1, jittered (std 0.01, at most 0.05), scaled by 0.8 to 1.25 and up to 7/8 of them dropped onto the first point.

    scale_aware adds the height above the lowest point as a channel.
    """
    if points.ndim != 3 or points.shape[-1] < 3:
        raise BadInput(
            f"shape {points.shape}; PointCloudsTransform takes points (t, n, 3): give the sampler points_in_use.points_num"
        )
    made, told = np.array(points[..., :3] if xyz_only else points, dtype=float), []
    heights = made[..., 2:3] - made[..., 2:3].min(1, keepdims=True)
    made -= made.mean(1, keepdims=True)
    made /= np.maximum(np.linalg.norm(made, axis=2).max(1)[:, None, None], 1e-12)

    def drawn(name: str, chance: float) -> bool:
        taken = bool(np.random.rand() < chance)
        told.extend([name] if taken else [])
        return taken

    if drawn("mirrored", flip_prob):
        made[..., 1] *= -1
    if drawn("shifted", shift_prob):
        made[..., :3] += np.random.uniform(-0.1, 0.1, made[..., :3].shape)
    if drawn("jittered", jit_prob):
        made += np.clip(np.random.normal(0, 0.01, made.shape), -0.05, 0.05)
    if drawn("scaled", scale_prob):
        made *= np.random.uniform(0.8, 1.25, (len(made), 1, 1))
    if drawn("dropped", drop_prob):
        lost = np.random.rand(*made.shape[:2]) <= np.random.rand(len(made), 1) * 0.875
        made = np.where(lost[..., None], made[:, :1], made)
    made = np.concatenate([made, heights], -1) if scale_aware else made
    return made, ", ".join(told) or "centred, scaled"


def _rearranged(array: np.ndarray, source: str, destination: str) -> tuple[np.ndarray, str]:
    return rearrange(array, f"{source} -> {destination}"), f"{source} -> {destination}"


def _ratio(sizes: np.ndarray) -> tuple[np.ndarray, str]:
    """Height and width (t, 2) -> width / height (t,)."""
    return sizes[:, 1] / sizes[:, 0], ""


def parts_of_ssb(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps of GaitSSB's DA4GaitSSB with its options, as transforms of their own."""
    band = {"top_range": options.get("top_range", (9, 20)), "bot_range": options.get("bot_range", (39, 50))}
    return [
        {"type": "RandomAffine", "prob": options.get("ra_prob", 0.2)},
        {"type": "RandomPerspective", "prob": options.get("rp_prob", 0.2)},
        {"type": "BaseSilCuttingTransform", "cutting": options.get("cutting")},
        {"type": "RandomHorizontalFlip", "prob": options.get("rhf_prob", 0.5)},
        {"type": "RandomPartDilate", "prob": options.get("rpd_prob", 0.2), **band},
        {"type": "RandomPartBlur", "prob": options.get("rpb_prob", 0.2), **band},
    ]


def _mirror_joints(pose: np.ndarray, probability: float = 0.5, joint_format: str = "coco") -> tuple[np.ndarray, str]:
    """Left and right joints change places in each frame by itself."""
    chosen = np.random.random(len(pose)) <= probability
    made = np.array(pose)
    made[chosen] = made[chosen][:, list(skeleton(joint_format).mirror)]
    return made, f"swapped in {int(chosen.sum())} of {len(pose)} frames"


def _window(pose: np.ndarray, sequence_length: int = 10, middle: bool = False) -> tuple[np.ndarray, str]:
    room = len(pose) - sequence_length
    if room < (0 if middle else 1):
        least = "at least" if middle else "more than"
        raise BadInput(f"{len(pose)} frames; expected {least} sequence_length {sequence_length}")
    start = room // 2 if middle else int(np.random.randint(room))
    return pose[start : start + sequence_length], f"frames {start} to {start + sequence_length - 1}"


def _joint_noise(pose: np.ndarray, std: float = 0.25) -> tuple[np.ndarray, str]:
    """The same noise in every frame; the score keeps its value."""
    noise = np.random.normal(0, std, (pose.shape[1], 2))
    return pose + np.pad(noise, [(0, 0), (0, pose.shape[2] - 2)]), f"std {std:g}"


def _point_noise(pose: np.ndarray, std: float = 0.01) -> tuple[np.ndarray, str]:
    return pose + np.random.normal(0, std, pose.shape), f"std {std:g}"


def _move(pose: np.ndarray, random_r: Sequence[float] = (4, 1)) -> tuple[np.ndarray, str]:
    x, y = (np.random.uniform(-reach, reach) for reach in random_r)
    return pose + np.array([x, y, 0]), f"{x:.2f}, {y:.2f}"


DRAWN: Mapping[str, Callable[..., tuple[np.ndarray, str]]] = {
    "RandomHorizontalFlip": _flip,
    "RandomErasing": _erase,
    "RandomRotate": _rotate,
    "RandomPerspective": _perspective,
    "RandomAffine": _affine,
    "FlipSequence": lambda pose: (pose[::-1], "backwards"),
    "InversePosesPre": _mirror_joints,
    "RandomSelectSequence": _window,
    "SelectSequenceCenter": lambda pose, **options: _window(pose, **options, middle=True),
    "JointNoise": _joint_noise,
    "PointNoise": _point_noise,
    "RandomMove": _move,
    "MirrorPoses": _mirror_places,
    "RandomPartDilate": _dilate,
    "RandomPartBlur": _blur,
    "MSGGTransform": _twelve,
    "PointCloudsTransform": _clouds,
    "RatioHW": _ratio,
    "Rearrange": _rearranged,
}
"""OpenGait's augmentations of silhouettes, poses and point clouds by `type`."""

CHANCE: Mapping[str, str] = {
    **dict.fromkeys(("RandomHorizontalFlip", "RandomRotate", "RandomPerspective", "RandomAffine", "RandomPartDilate",
                     "MirrorPoses"), "prob"),
    "FlipSequence": "probability",
}  # fmt: skip
"""The option of an augmentation that says how often it is taken as a whole, 0.5 by default; the others always are."""


def taken(kind: str, array: np.ndarray, options: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    """(array, what was drawn) of one augmentation of DRAWN; options that it does not have are ignored, as OpenGait does."""
    options = dict(options)
    if kind in CHANCE and random.uniform(0, 1) >= float(options.pop(CHANCE[kind], 0.5)):
        return array, "not applied"
    known = inspect.signature(DRAWN[kind]).parameters
    free = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    return DRAWN[kind](array, **{key: value for key, value in options.items() if free or key in known})
