"""Articulated figures on real photographs, with known joints and masks, and a small Pose ResNet that learns them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from torchloupe.data.bodies import COCO_BODY, Crop, Person, Sample, frame
from torchloupe.errors import need
from torchloupe.sources.poses import read
from torchloupe.store import aside, whole

Array = NDArray[Any]
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "brick", "grass", "gravel")
SIZE = (144, 176)
CROP = Crop(size=(96, 128), heatmap=(24, 32), sigma=1.5)
J = {name: i for i, name in enumerate(COCO_BODY.joints)}
LIMBS = (("shoulder", "elbow", 0.13), ("elbow", "wrist", 0.11), ("hip", "knee", 0.17), ("knee", "ankle", 0.14))


@dataclass(frozen=True)
class Figure:
    """One rendered figure: picture (h, w, 3) uint8, joints (17, 2), visible (17,) booleans, mask (h, w) of 0 and 1."""

    picture: Array
    joints: Array
    visible: Array
    mask: Array


def photographs() -> list[Array]:
    """Real photographs that come with scikit-image, RGB uint8."""
    try:
        from skimage import data
    except ImportError:
        raise need("scikit-image", "demo") from None
    found = [np.asarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    return [picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, -1) for picture in found]


def pose(rng: np.random.Generator, facing: bool = True, size: tuple[int, int] = SIZE) -> Array:
    """Joints (17, 2) of a figure that faces us or turns its back, in pixels: a lean, a turned head, random limbs."""
    trunk = size[1] * rng.uniform(0.2, 0.27)
    lean = rng.normal(0, 0.2)
    up, side = np.array([np.sin(lean), -np.cos(lean)]), np.array([np.cos(lean), np.sin(lean)])
    hips = np.array([size[0] * rng.uniform(0.4, 0.6), size[1] * rng.uniform(0.5, 0.6)])
    neck = hips + trunk * up
    turn = rng.uniform(-0.12, 0.12)
    head = neck + trunk * 0.42 * up
    joints = np.zeros((17, 2))
    joints[J["nose"]] = head + trunk * (turn * side - 0.02 * up)
    # the left of a figure that faces us is on our right
    for name, sign in (("left", 1 if facing else -1), ("right", -1 if facing else 1)):
        joints[J[f"{name}_eye"]] = head + trunk * ((0.09 * sign + 0.7 * turn) * side + 0.07 * up)
        joints[J[f"{name}_ear"]] = head + trunk * ((0.2 * sign + 0.2 * turn) * side + 0.02 * up)
        joints[J[f"{name}_shoulder"]] = neck + trunk * 0.36 * sign * side
        joints[J[f"{name}_hip"]] = hips + trunk * 0.22 * sign * side
        for start, bend, end, lengths, spread in (
            ("shoulder", "elbow", "wrist", (0.55, 0.5), (rng.uniform(-0.4, 2.6), rng.uniform(-0.3, 1.9))),
            ("hip", "knee", "ankle", (0.7, 0.65), (rng.uniform(-0.25, 0.9), rng.uniform(-0.9, 0.2))),
        ):
            angle = spread[0]
            at = joints[J[f"{name}_{start}"]]
            for joint, length, more in ((bend, lengths[0], spread[1]), (end, lengths[1], 0.0)):
                at = at + trunk * length * (np.sin(angle) * sign * side - np.cos(angle) * up)
                joints[J[f"{name}_{joint}"]] = at
                angle += more
    return joints


def figure(rng: np.random.Generator, backgrounds: Sequence[Array], size: tuple[int, int] = SIZE) -> Figure:
    """A figure drawn on a random piece of a random photograph.

    Most wear one colour on the left and another on the right; a third wears one colour, so that left and right can
    only be told by whether there is a face: those are the ones that a network inverts. A quarter turns its back and
    shows neither nose nor eyes.
    """
    facing = rng.random() > 0.25
    joints = pose(rng, facing, size)
    photograph = backgrounds[int(rng.integers(len(backgrounds)))]
    wide = int(min(photograph.shape[1], photograph.shape[0] * size[0] / size[1]) * rng.uniform(0.5, 1))
    high = int(wide * size[1] / size[0])
    left, top = (
        int(rng.integers(0, side - cut + 1)) for side, cut in zip(photograph.shape[1::-1], (wide, high), strict=True)
    )
    piece = Image.fromarray(photograph[top : top + high, left : left + wide]).resize((size[0] * 2, size[1] * 2))
    mask = Image.new("L", piece.size)
    _draw(rng, joints * 2, facing, ImageDraw.Draw(piece), ImageDraw.Draw(mask))
    shown = np.all((joints >= 0) & (joints < size), axis=1)
    shown[[J["nose"], J["left_eye"], J["right_eye"]]] &= facing
    return Figure(
        picture=np.asarray(piece.resize(size, Image.Resampling.BOX)),
        joints=joints,
        visible=shown & (rng.random(17) > 0.08),
        mask=(np.asarray(mask.resize(size, Image.Resampling.BOX)) > 127).astype(np.uint8),
    )


def _draw(
    rng: np.random.Generator, joints: Array, facing: bool, picture: ImageDraw.ImageDraw, mask: ImageDraw.ImageDraw
) -> None:
    trunk = float(np.linalg.norm(joints[J["left_shoulder"]] - joints[J["left_hip"]]))
    skin = tuple(int(v) for v in np.array([224, 172, 120]) * rng.uniform(0.55, 1.1))
    sides = {"left": (60, 90, 220), "right": (220, 70, 60)}
    if rng.random() < 1 / 3:
        sides = dict.fromkeys(sides, (235, 205, 60))
    shirt = tuple(int(v) for v in rng.uniform(30, 230, 3))

    def disc(at: Array, radius: float, colour: tuple[int, ...]) -> None:
        box = (*(at - radius), *(at + radius))
        picture.ellipse(box, fill=colour)
        mask.ellipse(box, fill=255)

    def bar(start: Array, end: Array, width: float, colour: tuple[int, ...]) -> None:
        for canvas, fill in ((picture, colour), (mask, 255)):
            canvas.line((*start, *end), fill=fill, width=max(1, round(width)))
        disc(start, width / 2, colour)
        disc(end, width / 2, colour)

    for side, colour in sides.items():
        for start, end, width in LIMBS[2:]:
            bar(joints[J[f"{side}_{start}"]], joints[J[f"{side}_{end}"]], width * trunk, colour)
    corners = [joints[J[name]] for name in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]
    for canvas, fill in ((picture, shirt), (mask, 255)):
        canvas.polygon([tuple(corner) for corner in corners], fill=fill)
    for side, colour in sides.items():
        for start, end, width in LIMBS[:2]:
            bar(joints[J[f"{side}_{start}"]], joints[J[f"{side}_{end}"]], width * trunk, colour)
        disc(joints[J[f"{side}_wrist"]], 0.09 * trunk, skin)
        disc(joints[J[f"{side}_ankle"]], 0.1 * trunk, (40, 40, 40))
    head = (joints[J["left_ear"]] + joints[J["right_ear"]]) / 2
    bar(head, (corners[0] + corners[1]) / 2, 0.14 * trunk, skin)
    disc(head, 0.21 * trunk, skin)
    for side, colour in sides.items():
        disc(joints[J[f"{side}_ear"]], 0.05 * trunk, tuple(int(v * 0.7) for v in skin))
        if facing:
            disc(joints[J[f"{side}_eye"]], 0.035 * trunk, colour)
    if facing:
        disc(joints[J["nose"]], 0.035 * trunk, (150, 60, 60))


def person(drawn: Figure, number: int, picture: Path = Path()) -> Person:
    """A figure as an annotated person, its box that of its mask."""
    box = _box(drawn.mask)
    centre, extent = frame(box, CROP)
    return Person(
        id=str(number),
        image_id=number,
        picture=picture,
        centre=centre,
        extent=extent,
        joints=drawn.joints,
        weight=drawn.visible.astype(np.float64),
        area=float(drawn.mask.sum()),
        size=max(box[2:]),
        segmentation=_code(drawn.mask),
    )


def _box(mask: Array) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)


def _code(mask: Array) -> dict[str, Any]:
    """A mask as COCO's plain run lengths, column by column, the first run of zeros."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[0] == 0 else [0, *runs]}


def write(folder: Path, count: int, seed: int, split: str = "figures") -> Path:
    """Render `count` figures as a COCO keypoint data set and return its root."""
    rng, backgrounds = np.random.default_rng(seed), photographs()
    images, annotations = [], []
    for i in range(count):
        drawn = figure(rng, backgrounds)
        name = f"{i:06d}.png"
        with aside(folder / "images" / split / name) as (draft,):
            Image.fromarray(drawn.picture).save(draft)
        images.append({"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        triples = np.concatenate([drawn.joints.round(2), 2.0 * drawn.visible[:, None]], 1) * drawn.visible[:, None]
        annotations.append(
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "iscrowd": 0,
                "area": float(drawn.mask.sum()),
                "bbox": list(_box(drawn.mask)),
                "keypoints": triples.ravel().tolist(),
                "num_keypoints": int(drawn.visible.sum()),
                "segmentation": _code(drawn.mask),
            }
        )
    bones = [[a + 1, b + 1] for a, b in COCO_BODY.bones]
    category = {"id": 1, "name": "person", "keypoints": list(COCO_BODY.joints), "skeleton": bones}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    whole(folder / "annotations" / f"person_keypoints_{split}.json", json.dumps(content))
    return folder


def config(path: Path, width: int = 16, filters: int = 48) -> Path:
    """Write the experiment file of the small Pose ResNet: depth 18, `width` channels in the stem."""
    extra = {
        "NUM_LAYERS": 18,
        "WIDTH": width,
        "FINAL_CONV_KERNEL": 1,
        "DECONV_WITH_BIAS": False,
        "NUM_DECONV_LAYERS": 3,
        "NUM_DECONV_FILTERS": [filters] * 3,
        "NUM_DECONV_KERNELS": [4] * 3,
    }
    content = {
        "DATASET": {"DATASET": "coco", "ROOT": "data", "TEST_SET": "figures", "COLOR_RGB": True},
        "MODEL": {
            "NAME": "pose_resnet",
            "NUM_JOINTS": 17,
            "IMAGE_SIZE": list(CROP.size),
            "HEATMAP_SIZE": list(CROP.heatmap),
            "SIGMA": CROP.sigma,
            "EXTRA": extra,
        },
        "TEST": {"USE_GT_BBOX": True, "POST_PROCESS": True, "IN_VIS_THRE": 0.2, "OKS_THRE": 0.9},
    }
    return whole(path, yaml.safe_dump(content, sort_keys=False))


def rendered(count: int, seed: int) -> list[Sample]:
    """`count` figures as the network is fed them."""
    rng, backgrounds = np.random.default_rng(seed), photographs()
    drawn = (figure(rng, backgrounds) for _ in range(count))
    return [read(person(one, i), CROP, picture=one.picture) for i, one in enumerate(drawn)]


def train(
    net: nn.Module,
    samples: Sequence[Sample],
    steps: int,
    seed: int = 0,
    batch: int = 32,
    rate: float = 2e-3,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Teach the network the true heatmaps: mean squared error over the visible joints, Adam, one cycle of the rate."""
    torch.manual_seed(seed)
    x = torch.from_numpy(np.stack([sample.x for sample in samples]))
    true = torch.from_numpy(np.stack([sample.heatmaps for sample in samples]))
    weight = torch.from_numpy(np.stack([sample.weight for sample in samples])).float()[:, :, None, None]
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(net.get_parameter("final_layer.weight"), std=0.001)
    net.train()
    for step in range(steps):
        pick = torch.randint(len(samples), (batch,), generator=order)
        gain = 1 + 0.2 * torch.randn(batch, 3, 1, 1, generator=order)
        loss = ((net(x[pick] * gain) - true[pick]) ** 2 * weight[pick]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step, float(loss.detach()))
    net.eval()
