"""OpenGait trees as they are fed: every walk through the sampler and the transforms of a YAML, one step at a time."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.data.samples import BadSample, Marks, Sample, Step
from torchloupe.errors import BadInput, LoupeError, LoupeWarning, nearest
from torchloupe.sources.configs import changed, one_line
from torchloupe.sources.look import described
from torchloupe.sources.opengait_config import read_config
from torchloupe.sources.safe import load_pickle_arrays
from torchloupe.sources.sequences import Walk, read_pickle, sequences
from torchloupe.sources.transforms import seeded
from torchloupe.sources.walk_augmentations import DRAWN, parts_of_ssb, taken
from torchloupe.sources.walk_inputs import IMAGENET, TRANSFORMS, chosen, transformed

SHOWN = 8
# Transforms that turn poses into numbers that are no picture.
NUMBERS = ("GaitGraph1Input", "GaitGraphMultiInput", "GaitGraph_MultiInput", "GaitTRMultiInput", "SkeletonInput")
MOST_CLASSES = 20
TWO, CLOUDS = "TwoView", "PointCloudsTransform"


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
        try:
            steps = [part for whole in self.transforms for part in _parts(whole)]
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
        for kind in (one.get("type") for one in steps):
            if kind not in (*TRANSFORMS, *DRAWN, TWO):
                near = nearest(str(kind), (*TRANSFORMS, *DRAWN, TWO))
                raise BadInput(f"{path}: transform {kind!r} is not known.{near}")
        self.clouds = [any(one.get("type") == CLOUDS for one in _parts(whole)) for whole in self.transforms]
        if any(self.clouds):
            self.walks = tuple(CloudWalk(*vars(walk).values()) for walk in self.walks)

    def __len__(self) -> int:
        return len(self.walks)

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample for a walk that cannot be read and for a step that fails."""
        walk, log = self.walks[index], list[Step]()
        place = "load"
        try:
            arrays = chosen(walk, self.config)
            parts = [
                _Part(file, array, cloud=self.clouds[min(k, len(self.clouds) - 1)])
                for k, (file, array) in enumerate(zip(walk.files, arrays, strict=False))
            ]
            log.append(_step(place, parts, ", ".join(described(part.array) for part in parts)))
            if whole:
                transforms = self.transforms * (len(parts) if len(self.transforms) == 1 else 1)
                if len(transforms) != len(parts):
                    raise BadInput(f"{len(parts)} modalities, but the config names {len(transforms)} transforms")
                with seeded(seed):
                    place = "sampler"
                    index_of, text = drawn_frames(len(parts[0].array), self.sampler)
                    points = self.sampler.get("points_in_use") or {}
                    for k, part in enumerate(parts):
                        drawn = part.array[index_of]
                        if k == points.get("pointcloud_index"):
                            drawn, few = _some_points(drawn, points.get("points_num"))
                            text = f"{text}, {few}"
                        parts[k] = replace(part, array=drawn)
                    log.append(_step(place, parts, text))
                    for step in zip_longest(*map(_parts, transforms)):
                        place = " | ".join(dict.fromkeys(_title(one) for one in step if one))
                        made = [part.after(one) if one else (part, "") for part, one in zip(parts, step, strict=True)]
                        parts = [part for part, _ in made]
                        log.append(_step(place, parts, ", ".join(dict.fromkeys(text for _, text in made if text))))
        except LoupeError as error:
            raise BadSample(index, walk.name, _named(place), str(error)) from error
        except Exception as error:
            raise BadSample(index, walk.name, _named(place), one_line(error)) from error
        if not any(step.pictures for step in log):
            raise BadSample(index, walk.name, "load", f"no picture in {', '.join(map(described, _arrays(parts)))}")
        return Sample(index, walk.name, walk.identity, tuple(log))


def _named(place: str) -> str:
    return place if place == "load" else f"step {place}"


def _title(step: Mapping[str, Any]) -> str:
    return f"view {step['view']}: {step['type']}" if "view" in step else str(step["type"])


@dataclass(frozen=True)
class CloudWalk(Walk):
    """A walk whose frames may be point clouds, each of its own number of points."""

    def read(self, size: int = 64) -> tuple[np.ndarray, ...]:
        """The arrays, time first; point clouds as an object array of (n, 3 or more)."""
        return tuple(_cloud(file) for file in self.files)


def _cloud(file: Path) -> np.ndarray:
    found = load_pickle_arrays(file) if file.suffix == ".pkl" else None
    if not isinstance(found, (list, tuple)) or len({getattr(one, "shape", ()) for one in found}) < 2:
        return read_pickle(file)
    if any(not isinstance(one, np.ndarray) or one.ndim != 2 for one in found):
        raise BadInput(f"{file}: expected point clouds, one array (n, 3 or more) a frame")
    made = np.empty(len(found), object)
    made[:] = list(found)
    return made


def _some_points(clouds: np.ndarray, count: int | None) -> tuple[np.ndarray, str]:
    """So many points of every frame, any of them more than once; (t, count, 3 or more)."""
    if count is None:
        return clouds, "all points"
    if any(not len(points) for points in clouds):
        raise BadInput("a frame without points")
    return np.stack([points[np.random.randint(len(points), size=count)] for points in clouds]), f"{count} points each"


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
    except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise BadInput(f"{partition}: expected a JSON mapping with a list {key} ({one_line(error)})") from None
    found = tuple(walk for walk in walks if walk.identity in people)
    if not found:
        raise BadInput(f"{partition}: none of the {len(people)} people of {key} is in the tree")
    return found


def _parts(transform: Any) -> Sequence[Mapping[str, Any]]:
    """The steps of a transform: `Compose`, lists and `DA4GaitSSB` are opened."""
    if isinstance(transform, list):
        return [step for part in transform for step in _parts(part)]
    if not isinstance(transform, Mapping):
        raise BadInput(f"transform {transform!r}: expected a mapping with a type, such as {{type: BaseSilTransform}}")
    if transform.get("type") == "DA4GaitSSB":
        return [step for part in parts_of_ssb(transform) for step in _parts(part)]
    if transform.get("type") == "TwoView":
        inside = _parts(transform.get("trf_cfg") or [])
        return [{**step, "view": view} for view in (1, 2) for step in inside] + [{"type": "TwoView"}]
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
            start = random.randint(0, count * -(-window // count) - window)
            places = np.sort(np.random.permutation(window)[:wanted])
            taken = (start + places) % count
        else:
            taken = np.random.choice(count, wanted, replace=count < wanted)
    return taken, f"{kind}: {len(taken)} of {count} frames"


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One modality of a walk on its way, the normalisation to undo, and whether it still is something to see."""

    file: Path
    array: np.ndarray
    undo: tuple[np.ndarray, np.ndarray] | None = None
    visible: bool = True
    cloud: bool = False
    # Of TwoView: the number of the view, the part before both, what the first view gave.
    view: int = 0
    start: _Part | None = None
    first: np.ndarray | None = None

    def after(self, transform: Mapping[str, Any]) -> tuple[_Part, str]:
        view = transform.get("view", 0)
        if view == 1 and self.view == 0:
            return replace(self, view=1, start=self)._taken(transform)
        if view == 2 and self.view == 1 and self.start is not None:
            return replace(self.start, view=2, first=self.array)._taken(transform)
        return self._taken(transform)

    def _taken(self, transform: Mapping[str, Any]) -> tuple[_Part, str]:
        kind = str(transform["type"])
        options = {key: value for key, value in transform.items() if key not in ("type", "view")}
        if kind == TWO:
            return replace(self, array=np.concatenate([self.first, self.array], 1), view=0, visible=False), "joined"
        if kind in DRAWN:
            array, told = taken(kind, self.array, options)
            return replace(self, array=array), told
        undo = self.undo
        if kind == "BaseRgbTransform":
            scaled = (np.reshape(options.get(key) or 255 * np.array(own), (3, 1, 1))
                      for key, own in zip(("mean", "std"), IMAGENET, strict=True))  # fmt: skip
            undo = next(scaled), next(scaled)
        visible = self.visible and kind not in NUMBERS
        return replace(
            self, array=transformed(self.array, {"type": kind, **options}, self.file), undo=undo, visible=visible
        ), ""

    def pictures(self) -> tuple[tuple[np.ndarray, ...], tuple[Marks, ...]]:
        """Up to SHOWN frames over the whole walk as (h, w, 3) uint8, and what is drawn on each."""
        array = self.array
        if not self.visible:
            return (), ()
        shown = array[np.linspace(0, len(array) - 1, min(SHOWN, len(array))).round().astype(int)]
        if self.cloud:
            return _clouds(shown)
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


def _clouds(shown: Sequence[np.ndarray]) -> tuple[tuple[np.ndarray, ...], tuple[Marks, ...]]:
    """Points (n, 3 or more) of each frame seen along x, z upwards: the nearer, the brighter; all frames at one scale."""
    whole = np.concatenate([np.asarray(points, float)[:, :3] for points in shown])
    low, high = whole.min(0), whole.max(0)
    scale = 120 / max(float((high - low)[1:].max()), 1e-9)
    wide, tall = np.ceil((high - low)[1:] * scale).astype(int) + 5
    pictures = []
    for points in shown:
        depth, across, up = ((np.asarray(points, float)[:, :3] - low) / np.maximum(high - low, 1e-9)).T
        picture = np.zeros((tall, wide, 3), np.uint8)
        order = np.argsort(depth)
        x = (2 + across * (wide - 5)).round().astype(int)[order]
        y = (2 + (1 - up) * (tall - 5)).round().astype(int)[order]
        bright = (90 + 165 * depth[order]).astype(np.uint8)
        for shift in (0, 1):
            picture[y, x + shift] = bright[:, None]
        pictures.append(picture)
    return tuple(pictures), (Marks(),) * len(pictures)


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
