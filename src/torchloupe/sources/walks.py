"""OpenGait trees as they are fed: every walk through the sampler and the transforms of a YAML, one step at a time."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, LoupeError, LoupeWarning, nearest
from torchloupe.methods.browse import BadSample, Marks, Sample, Step
from torchloupe.networks.gait.skeletons import skeleton
from torchloupe.sources.configs import changed, one_line
from torchloupe.sources.opengait import IMAGENET, TRANSFORMS, _chosen, read_config, transformed
from torchloupe.sources.sequences import Walk, sequences
from torchloupe.sources.transforms import described, seeded

SHOWN = 8
# Transforms that turn poses into numbers that are no picture.
NUMBERS = ("GaitGraph1Input", "GaitGraphMultiInput", "GaitGraph_MultiInput", "GaitTRMultiInput", "SkeletonInput")
MOST_CLASSES = 20


class WalkFeed:
    """`config.yaml` of OpenGait with its tree, `data_cfg.dataset_root` or `data`; train, or test for val as well."""

    def __init__(self, path: str, phase: str, changes: Mapping[str, Any], data: str | None = None) -> None:
        self.name = Path(path).stem
        found = read_config(path)
        self.config = replace(found, blocks=changed(found.blocks, changes, path))
        settings = self.config.blocks["data_cfg"]
        root = data or settings.get("dataset_root")
        if not root:
            raise BadInput(f"{path}: data_cfg.dataset_root is missing; give the tree with --data")
        self.walks = _of_phase(sequences(root), settings.get("dataset_partition"), phase, path)
        block = self.config.blocks["trainer_cfg" if phase == "train" else "evaluator_cfg"]
        self.sampler: Mapping[str, Any] = block.get("sampler") or {}
        wanted = block.get("transform") or self.config.transforms
        self.transforms = wanted if isinstance(wanted, list) else [wanted]
        for one in (part for whole in self.transforms for part in _parts(whole)):
            if one.get("type") not in (*TRANSFORMS, *DRAWN):
                near = nearest(str(one.get("type")), (*TRANSFORMS, *DRAWN))
                raise BadInput(f"{path}: transform {one.get('type')!r} is not known.{near}")

    def __len__(self) -> int:
        return len(self.walks)

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample for a walk that cannot be read and for a step that fails."""
        walk, log = self.walks[index], list[Step]()
        place = "load"
        try:
            parts = [_Part(file, array) for file, array in zip(walk.files, _chosen(walk, self.config), strict=False)]
            log.append(_step(place, parts, ", ".join(described(part.array) for part in parts)))
            if whole:
                transforms = self.transforms * (len(parts) if len(self.transforms) == 1 else 1)
                if len(transforms) != len(parts):
                    raise BadInput(f"{len(parts)} modalities, but the config names {len(transforms)} transforms")
                with seeded(seed):
                    place = "sampler"
                    index_of, text = drawn_frames(len(parts[0].array), self.sampler)
                    parts = [replace(part, array=part.array[index_of]) for part in parts]
                    log.append(_step(place, parts, text))
                    for step in zip_longest(*map(_parts, transforms)):
                        place = " | ".join(dict.fromkeys(str(one["type"]) for one in step if one))
                        taken = [part.after(one) if one else (part, "") for part, one in zip(parts, step, strict=True)]
                        parts = [part for part, _ in taken]
                        log.append(_step(place, parts, ", ".join(dict.fromkeys(text for _, text in taken if text))))
        except LoupeError as error:
            raise BadSample(index, walk.name, _named(place), str(error)) from error
        except Exception as error:
            raise BadSample(index, walk.name, _named(place), one_line(error)) from error
        if not any(step.pictures for step in log):
            raise BadSample(index, walk.name, "load", f"no picture in {', '.join(map(described, _arrays(parts)))}")
        return Sample(index, walk.name, walk.identity, tuple(log))


def _named(place: str) -> str:
    return place if place == "load" else f"step {place}"


def _arrays(parts: Sequence[_Part]) -> list[np.ndarray]:
    return [part.array for part in parts]


def _of_phase(walks: tuple[Walk, ...], partition: Any, phase: str, path: str) -> tuple[Walk, ...]:
    """The walks of the people whom the partition file names for the phase; all of them without such a file."""
    if not partition or not Path(partition).is_file():
        text = f"{path}: no partition file {partition or ''}".rstrip()
        warnings.warn(f"{text}; all {len(walks)} walks are shown", LoupeWarning, stacklevel=3)
        return walks
    key = "TRAIN_SET" if phase == "train" else "TEST_SET"
    try:
        people = set(json.loads(Path(partition).read_text(encoding="utf-8"))[key])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{partition}: expected a JSON mapping with a list {key} ({one_line(error)})") from None
    found = tuple(walk for walk in walks if walk.identity in people)
    if not found:
        raise BadInput(f"{partition}: none of the {len(people)} people of {key} is in the tree")
    return found


def _parts(transform: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a transform: `Compose` is opened."""
    if transform.get("type") != "Compose":
        return [transform]
    return [step for part in transform.get("trf_cfg") or () for step in _parts(part)]


def drawn_frames(count: int, sampler: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    """Numbers of the frames that a sampler draws of `count`, and how many in words.

    all: every frame, at most frames_all_limit. fixed: frames_num_fixed; unfixed: a number from frames_num_min to max.
    ordered: of a window of that many and frames_skip_num more, which begins anywhere, without the skipped ones.
    unordered: any frames. Short walks are repeated.
    """
    kind = str(sampler.get("sample_type", "all_ordered"))
    if kind.startswith("all"):
        taken = np.arange(min(count, int(sampler.get("frames_all_limit") or count)))
    else:
        if kind.startswith("fixed"):
            wanted = int(sampler.get("frames_num_fixed", 30))
        else:
            wanted = random.randint(int(sampler.get("frames_num_min", 25)), int(sampler.get("frames_num_max", 50)))
        if wanted < 1:
            raise BadInput(f"the sampler asks for {wanted} frames; expected a positive number")
        if kind.endswith("_ordered"):
            window = wanted + int(sampler.get("frames_skip_num", 0))
            start = random.randint(0, max(0, count - window))
            places = np.sort(np.random.permutation(window)[:wanted])
            taken = (start + places) % count
        else:
            taken = np.random.choice(count, wanted, replace=count < wanted)
    return taken, f"{kind}: {len(taken)} of {count} frames"


# --- augmentations ---------------------------------------------------------------------------------------------------


def _flip(array: np.ndarray) -> tuple[np.ndarray, str]:
    return array[..., ::-1], "mirrored"


def _erase(
    array: np.ndarray, sl: float = 0.05, sh: float = 0.2, r1: float = 0.3, per_frame: bool = False
) -> tuple[np.ndarray, str]:
    """A rectangle of a share sl to sh of the area and a ratio r1 to 1/r1 is black: in all frames, or one in each."""
    rows, columns = array.shape[-2:]
    made, told = np.array(array), ""
    for frames in [made[k : k + 1] for k in range(len(made))] if per_frame else [made]:
        for _ in range(100):
            area, ratio = random.uniform(sl, sh) * rows * columns, random.uniform(r1, 1 / r1)
            high, wide = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if high < rows and wide < columns:
                top, left = random.randint(0, rows - high), random.randint(0, columns - wide)
                frames[..., top : top + high, left : left + wide] = 0
                told = "one a frame" if per_frame else f"{wide}x{high} at {left}, {top}"
                break
    return made, told


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


def _mirror_joints(pose: np.ndarray, probability: float = 0.5, joint_format: str = "coco") -> tuple[np.ndarray, str]:
    """Left and right joints change places in each frame by itself."""
    chosen = np.random.random(len(pose)) <= probability
    made = np.array(pose)
    made[chosen] = made[chosen][:, list(skeleton(joint_format).mirror)]
    return made, f"swapped in {int(chosen.sum())} of {len(pose)} frames"


def _window(pose: np.ndarray, sequence_length: int = 10, middle: bool = False) -> tuple[np.ndarray, str]:
    if len(pose) <= sequence_length:
        raise BadInput(f"{len(pose)} frames; expected more than sequence_length {sequence_length}")
    room = len(pose) - sequence_length
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
}
"""OpenGait's augmentations of silhouettes and poses by `type`."""

CHANCE: Mapping[str, str] = {
    **{
        name: "prob"
        for name in DRAWN
        if name.startswith("Random") and name not in ("RandomSelectSequence", "RandomMove")
    },
    "FlipSequence": "probability",
}
"""The option of an augmentation that says how often it is taken as a whole, 0.5 by default; the others always are."""


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One modality of a walk on its way, the normalisation to undo, and whether it still is something to see."""

    file: Path
    array: np.ndarray
    undo: tuple[np.ndarray, np.ndarray] | None = None
    visible: bool = True

    def after(self, transform: Mapping[str, Any]) -> tuple[_Part, str]:
        kind = str(transform["type"])
        options = {key: value for key, value in transform.items() if key != "type"}
        if kind in DRAWN:
            if kind in CHANCE and random.uniform(0, 1) >= float(options.pop(CHANCE[kind], 0.5)):
                return self, "not applied"
            array, told = DRAWN[kind](self.array, **options)
            return replace(self, array=array), told
        undo = self.undo
        if kind == "BaseRgbTransform":
            scaled = (np.reshape(options.get(key) or 255 * np.array(own), (3, 1, 1))
                      for key, own in zip(("mean", "std"), IMAGENET, strict=True))  # fmt: skip
            undo = next(scaled), next(scaled)
        visible = self.visible and kind not in NUMBERS
        return replace(self, array=transformed(self.array, transform, self.file), undo=undo, visible=visible), ""

    def pictures(self) -> tuple[tuple[np.ndarray, ...], tuple[Marks, ...]]:
        """Up to SHOWN frames over the whole walk as (h, w, 3) uint8, and what is drawn on each."""
        array = self.array
        if not self.visible:
            return (), ()
        shown = array[np.linspace(0, len(array) - 1, min(SHOWN, len(array))).round().astype(int)]
        if array.ndim == 3 and array.shape[-1] == 3:
            return _skeletons(shown, array)
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[1] not in (1, 2, 3)) or min(array.shape) < 1:
            return (), ()
        if self.undo is not None:
            shown = shown * self.undo[1] + self.undo[0]
        # Grey values go up to 255 or 1, classes of a parsing are small whole numbers.
        most = float(array.max()) if self.undo is None else 255.0
        level = 255.0 if most > MOST_CLASSES else max(most, 1.0)
        grey = (shown / level * 255).round().clip(0, 255).astype(np.uint8)
        if grey.ndim == 3:
            colours = np.repeat(grey[..., None], 3, -1)
        else:
            # Two channels, limbs and joints, are red and green.
            padded = np.repeat(grey, 3, 1) if grey.shape[1] == 1 else np.pad(
                grey, [(0, 0), (0, 3 - grey.shape[1]), (0, 0), (0, 0)])  # fmt: skip
            colours = np.moveaxis(padded, 1, -1)
        return tuple(np.ascontiguousarray(frame) for frame in colours), (Marks(),) * len(colours)


def _skeletons(shown: np.ndarray, whole: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[Marks, ...]]:
    """Poses (t, j, 3) on black, all frames of a walk at one scale; a joint of score 0 is left out."""
    seen = whole[whole[..., 2] > 0][:, :2]
    if not len(seen):
        return (), ()
    low, high = seen.min(0), seen.max(0)
    scale = 120 / max(float((high - low).max()), 1e-9)
    wide, tall = np.ceil((high - low) * scale).astype(int) + 9
    pictures, marks = [], []
    for pose in shown:
        placed = np.concatenate([(pose[:, :2] - low) * scale + 4, pose[:, 2:3]], -1).astype(float)
        # Dots in the picture itself, so that walks can be compared.
        picture = np.zeros((tall, wide, 3), np.uint8)
        for x, y in placed[placed[:, 2] > 0][:, :2].round().astype(int):
            picture[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = 255
        pictures.append(picture)
        marks.append(Marks(keypoints=placed[None]))
    return tuple(pictures), tuple(marks)


def _step(name: str, parts: Sequence[_Part], text: str) -> Step:
    made = [part.pictures() for part in parts]
    pictures = tuple(picture for some, _ in made for picture in some)
    marks = tuple(mark for _, some in made for mark in some)
    lost = [described(part.array) for part, (some, _) in zip(parts, made, strict=True) if not some]
    told = [text] if text else []
    return Step(name, pictures, ", ".join(told + [one for one in lost if one not in text]), each=marks)


def gait_config(blocks: Mapping[str, Any]) -> bool:
    """Whether a YAML is an experiment of OpenGait."""
    return any(key in blocks for key in ("model_cfg", "data_cfg", "trainer_cfg", "evaluator_cfg"))
