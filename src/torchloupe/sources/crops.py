"""HRNet's pose crops as they are fed: every annotated person through the box, the augmentation and the heatmaps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from torchloupe.data.bodies import COCO_BODY, Crop, Person, affine, frame, moved
from torchloupe.data.samples import BadSample, Marks, Sample, Step
from torchloupe.errors import BadInput, LoupeError
from torchloupe.sources.configs import one_line
from torchloupe.sources.hrnet import Experiment, experiment
from torchloupe.sources.poses import coco, gaussians, located, mpii, outline, warp
from torchloupe.sources.transforms import seeded

# The joints from the hips upwards, in the numbering of COCO and of MPII.
UPPER = {17: range(11), 16: range(7, 16)}


class CropFeed:
    """`config.yaml` of HRNet with its COCO, MPII or RHD data, `DATASET.ROOT` or `data`; TEST_SET for val and test.

    Training crops are augmented by SCALE_FACTOR, ROT_FACTOR, FLIP and PROB_HALF_BODY, as the training does.
    """

    def __init__(self, path: str, phase: str, changes: Mapping[str, Any], data: str | None = None) -> None:
        self.name = Path(path).stem
        self.config: Experiment = experiment(path, [str(word) for pair in changes.items() for word in pair])
        config = self.config
        self.training = phase == "train"
        self.crop = Crop(config.image_size, config.heatmap_size, config["MODEL.SIGMA"], config["DATASET.COLOR_RGB"])
        root, kind = data or config["DATASET.ROOT"], config["DATASET.DATASET"]
        if not root:
            raise BadInput(f"{path}: DATASET.ROOT is empty; give the data with --data")
        if not Path(root).exists():
            raise BadInput(f"{root}: no such data (DATASET.ROOT of {path}, or --data)")
        if kind not in ("coco", "mpii", "rhd"):
            raise BadInput(f"{path}: DATASET.DATASET is {kind!r}; known are coco, mpii and rhd")
        annotations, folder = located(root, config["DATASET.TRAIN_SET" if self.training else "DATASET.TEST_SET"], kind)
        boxes = None if self.training or config["TEST.USE_GT_BBOX"] else config["TEST.COCO_BBOX_FILE"] or None
        if kind == "mpii":
            found = mpii(annotations, folder, self.crop)
        else:
            found = coco(annotations, folder, self.crop, detections=boxes, threshold=config["TEST.IMAGE_THRE"])
        self.people, self.skeleton, self.boxes = found.people, found.skeleton, _boxes(annotations)
        if not self.people:
            why = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
            raise BadInput(f"{annotations}: no person to crop ({why or 'no annotation'})")

    def __len__(self) -> int:
        return len(self.people)

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample for a picture that cannot be read and for a step that fails."""
        person = self.people[index]
        assert isinstance(person.picture, Path)  # annotation files name files
        name, place = f"{person.picture.name}#{person.id}", "load"
        try:
            with Image.open(person.picture) as opened:
                picture = np.asarray(opened.convert("RGB"))
            mask = None if person.segmentation is None else outline(person.segmentation, *picture.shape[:2])
            log = [Step("load", (picture,), "", self._whole(person, mask))]
            if whole:
                place = "crop"
                with seeded(seed):
                    log += self._cut(person, picture, mask)
        except LoupeError as error:
            raise BadSample(index, name, place if place == "load" else f"step {place}", str(error)) from error
        except Exception as error:
            raise BadSample(index, name, place if place == "load" else f"step {place}", one_line(error)) from error
        return Sample(index, name, "", tuple(log), file=str(person.picture))

    def _whole(self, person: Person, mask: np.ndarray | None) -> Marks:
        boxes, names = [_corners(person.centre, person.extent)], ["crop"]
        if person.id in self.boxes:
            x, y, wide, high = self.boxes[person.id]
            boxes.append([x, y, x + wide, y + high])
            names.append("box")
        points = np.concatenate([person.joints[:, :2], person.weight[:, None]], 1)[None]
        return Marks(np.array(boxes, float), tuple(names), points, None if mask is None else mask[None])

    def _cut(self, person: Person, picture: np.ndarray, mask: np.ndarray | None) -> list[Step]:
        crop, box, angle, told = self.crop, self.boxes.get(person.id), 0.0, ""
        if self.training:
            person, angle, flip, told = self._augmented(person)
            if flip:
                wide = picture.shape[1]
                picture, mask = picture[:, ::-1], None if mask is None else mask[:, ::-1]
                joints, weight = mirrored(person.joints[:, :2], person.weight, wide, self.skeleton.pairs)
                centre = wide - 1 - person.centre[0], person.centre[1]
                person = replace(person, joints=joints, weight=weight, centre=centre)
                box = None if box is None else [wide - 1 - box[0] - box[2], *box[1:]]
        matrix = turned(affine(person.centre, person.extent, crop.size), crop.size, angle)
        cut = np.rint(warp(picture, matrix, crop.size)).astype(np.uint8)
        outlined = None if mask is None else (warp(mask, matrix, crop.size) > 0.5)[None]
        weight = person.weight
        points = np.where(weight[:, None] > 0, moved(person.joints[:, :2], matrix), 0)
        drawn = np.concatenate([points, weight[:, None]], 1)[None]
        boxes = None if box is None else _moved_box(box, matrix)
        steps = [Step("crop", (cut,), told, Marks(boxes, ("box",) * (boxes is not None), drawn, outlined))]
        mean, std = np.array(crop.mean), np.array(crop.std)
        colours = cut if crop.rgb else cut[..., ::-1]
        x = ((colours / 255 - mean) / std).astype(np.float32)
        back = ((x * std + mean) * 255).round().clip(0, 255).astype(np.uint8)
        order = "RGB" if crop.rgb else "BGR"
        shown = np.ascontiguousarray(back if crop.rgb else back[..., ::-1])
        steps.append(Step("Normalize", (shown,), f"{order}, {x.min():.2f} to {x.max():.2f}", Marks(keypoints=drawn)))
        heat, kept = gaussians(points, weight, crop)
        text = (
            f"{int((kept > 0).sum())} of {len(kept)} joints, {crop.heatmap[0]}x{crop.heatmap[1]}, sigma {crop.sigma:g}"
        )
        steps.append(Step("heatmaps", (shown,), text, Marks(heat=heat.max(0))))
        return steps

    def _augmented(self, person: Person) -> tuple[Person, float, bool, str]:
        """The person with its frame moved and scaled, the angle in degrees, whether mirrored, and all that in words."""
        setting, told = self.config["DATASET"], []
        half = setting["PROB_HALF_BODY"] and np.random.random() < setting["PROB_HALF_BODY"]
        if half and (person.weight > 0).sum() > setting["NUM_JOINTS_HALF_BODY"]:
            found = half_body(person, self.crop)
            if found is not None:
                person, told = found, ["half body"]
        spread, most = setting["SCALE_FACTOR"], setting["ROT_FACTOR"]
        scale = float(np.clip(np.random.randn() * spread + 1, 1 - spread, 1 + spread))
        angle = float(np.clip(np.random.randn() * most, -2 * most, 2 * most)) if np.random.random() <= 0.6 else 0.0
        flip = bool(setting["FLIP"] and np.random.random() <= 0.5)
        told += [f"scale {scale:.2f}", f"{angle:.0f} degrees", *(["mirrored"] if flip else [])]
        return (
            replace(person, extent=(person.extent[0] * scale, person.extent[1] * scale)),
            angle,
            flip,
            ", ".join(told),
        )


def _boxes(annotations: Path) -> dict[str, list[float]]:
    """The annotated box (x, y, width, height) of each person by its id; none in MPII's files."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    entries = content["annotations"] if isinstance(content, dict) else ()
    return {str(entry["id"]): entry["bbox"] for entry in entries}


def _corners(centre: tuple[float, float], extent: tuple[float, float]) -> list[float]:
    (x, y), (wide, high) = centre, extent
    return [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]


def _moved_box(box: list[float], matrix: np.ndarray) -> np.ndarray:
    """The upright box around a box that went along."""
    x, y, wide, high = box
    corners = moved(np.array([[x, y], [x + wide, y], [x, y + high], [x + wide, y + high]], float), matrix)
    return np.concatenate([corners.min(0), corners.max(0)])[None]


def turned(matrix: np.ndarray, size: tuple[int, int], degrees: float) -> np.ndarray:
    """A 2 x 3 matrix picture -> crop, then turned about the crop's middle, as HRNet turns: the frame clockwise."""
    turn = np.radians(-degrees)
    c, s = np.cos(turn), np.sin(turn)
    middle = np.array(size) / 2
    spin = np.array([[c, -s], [s, c]])
    made = spin @ matrix
    made[:, 2] += middle - spin @ middle
    return made


def mirrored(
    points: np.ndarray, weight: np.ndarray, width: int, pairs: tuple[tuple[int, int], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Points (j, 2) and weights of a mirrored picture: x -> width - 1 - x, the partners of each pair swapped."""
    order = np.arange(len(points))
    for left, right in pairs:
        order[[left, right]] = right, left
    made = points[order].copy()
    made[:, 0] = width - 1 - made[:, 0]
    made[weight[order] <= 0] = 0
    return made, weight[order]


def half_body(person: Person, crop: Crop) -> Person | None:
    """The person framed by the visible joints of its upper or lower half, by 1.5 of their extent; None for too few.

    Source: Wang et al. 2018, Mscoco keypoints challenge 2018 (half body transform).
    """
    upper = UPPER.get(len(person.joints), range(len(COCO_BODY.joints) // 2))
    seen = [j for j in range(len(person.joints)) if person.weight[j] > 0]
    above, below = [j for j in seen if j in upper], [j for j in seen if j not in upper]
    first = above if np.random.randn() < 0.5 and len(above) > 2 else below
    chosen = first if len(first) > 2 else above
    if len(chosen) < 2:
        return None
    points = person.joints[chosen][:, :2]
    low, high = points.min(0), points.max(0)
    _, extent = frame((*low, *(high - low)), replace(crop, padding=1.5))
    centre = points.mean(0)
    return replace(person, centre=(float(centre[0]), float(centre[1])), extent=extent)


def pose_config(blocks: Mapping[str, Any]) -> bool:
    """Whether a YAML is an experiment of HRNet."""
    return "MODEL" in blocks and "DATASET" in blocks
