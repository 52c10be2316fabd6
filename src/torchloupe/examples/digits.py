"""A task whose answer is known: which digits are in this picture, and where. Real digits on real photographs.

scikit-learn's handwritten digits lie at random places and sizes on crops of scikit-image's photographs. A small network
learns to name them; since every digit's place is known, a heatmap that answers "where is the 7" can be marked right or wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from torchloupe.axes import resize
from torchloupe.errors import BadInput, NoGradient, need
from torchloupe.methods.registry import load_all
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.results import Maps
from torchloupe.targets.classes import Truth

SIDE = 64
SIZES = (16, 28)
CONTRAST = 0.25
TRIES = 20
DIMMED = 0.65
CLASSES = tuple("0123456789")
LAYERS = ("stage2", "stage3")
TRAINING_PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coins", "hubble_deep_field", "immunohistochemistry", "rocket"),
)
TEST_PHOTOGRAPHS = ("coffee", "grass", "gravel", "moon")
TEST_DIGITS = 450
SLOW = {
    **{"smooth_gradcam_pp": 2, "smoothgrad": 4, "integrated_gradients": 4, "ablationcam": 4},
    **{"scorecam": 4, "occlusion": 4, "sscam": 20, "iscam": 20},
}
Box = tuple[int, int, int, int]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Material:
    """What pictures are made of: digits (m, 8, 8) in 0 .. 1 with labels (m,), and photographs (h, w, 3) uint8."""

    digits: np.ndarray
    labels: np.ndarray
    photographs: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Scenes:
    """n pictures and where their digits are.

    pictures: (n, SIDE, SIDE, 3) uint8. boxes: (n, 10, 4) int, top, left, bottom, right of each digit's ink, the last two
    exclusive; all -1 where the picture does not hold that digit. No two boxes of a picture overlap.
    """

    pictures: np.ndarray
    boxes: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """(n, 10) bool: which digits each picture holds."""
        found: np.ndarray = self.boxes[:, :, 0] >= 0
        return found


def material(seed: int = 0) -> tuple[Material, Material]:
    """Digits and photographs to train with, and others to test with: neither shares a digit or a photograph.

    Errors: MissingPackage without scikit-learn or scikit-image.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise need("scikit-learn", "demo") from None
    try:
        from skimage import data
    except ImportError:
        raise need("scikit-image", "demo") from None
    known = load_digits()
    order = np.random.default_rng(seed).permutation(len(known.target))
    digits, labels = known.images[order].astype(np.float32) / 16, known.target[order]
    read = lambda names: tuple(in_colour(getattr(data, name)()) for name in names)
    return (
        Material(digits[TEST_DIGITS:], labels[TEST_DIGITS:], read(TRAINING_PHOTOGRAPHS)),
        Material(digits[:TEST_DIGITS], labels[:TEST_DIGITS], read(TEST_PHOTOGRAPHS)),
    )


def in_colour(photograph: np.ndarray) -> np.ndarray:
    """(h, w) or (h, w, 3) uint8 -> (h, w, 3) uint8."""
    return photograph if photograph.ndim == 3 else np.repeat(photograph[:, :, None], 3, axis=2)


def scenes(made_of: Material, n: int, rng: np.random.Generator, *, side: int = SIDE, most: int = 3) -> Scenes:
    """n pictures of one to most different digits, each on a random crop of a photograph."""
    pictures = np.empty((n, side, side, 3), np.uint8)
    boxes = np.full((n, len(CLASSES), 4), -1)
    which = [np.flatnonzero(made_of.labels == label) for label in range(len(CLASSES))]
    for i in range(n):
        canvas = background(made_of.photographs[rng.integers(len(made_of.photographs))], side, rng)
        taken: list[Box] = []
        for label in rng.permutation(len(CLASSES))[: rng.integers(1, most + 1)]:
            box = put(made_of.digits[rng.choice(which[label])], canvas, taken, rng)
            if box:
                taken.append(box)
                boxes[i, label] = box
        pictures[i] = canvas.round()
    return Scenes(pictures, boxes)


def background(photograph: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of a photograph, mirrored or not and dimmed, (side, side, 3) float in 0 .. 255 * DIMMED."""
    h, w = photograph.shape[:2]
    cut = int(rng.integers(side, min(h, w) + 1))
    top, left = rng.integers(h - cut + 1), rng.integers(w - cut + 1)
    crop = Image.fromarray(photograph[top : top + cut, left : left + cut])
    found = np.asarray(crop.resize((side, side), Image.Resampling.BOX), dtype=np.float32) * DIMMED
    return found[:, ::-1].copy() if rng.random() < 0.5 else found.copy()


def put(digit: np.ndarray, canvas: np.ndarray, taken: Sequence[Box], rng: np.random.Generator) -> Box | None:
    """Draws a digit on the canvas, in place, where it overlaps no box of taken, and gives the box of its ink.

    Its colour is random, lighter than what it covers by at least CONTRAST of the brightness range. Where none of TRIES places is
    free it is left out, and None given.
    """
    side = int(rng.integers(SIZES[0], SIZES[1] + 1))
    ink = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)
    rows, columns = np.flatnonzero((ink > 0.5).any(1)), np.flatnonzero((ink > 0.5).any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    h, w = ink.shape
    for _ in range(TRIES):
        top, left = int(rng.integers(len(canvas) - h + 1)), int(rng.integers(len(canvas) - w + 1))
        box = (top, left, top + h, left + w)
        if not any(overlap(box, other) for other in taken):
            break
    else:
        return None
    under = canvas[top : top + h, left : left + w]
    while True:
        colour = rng.uniform(80, 255, 3).astype(np.float32)
        if colour.mean() - under.mean() > CONTRAST * 255:
            break
    under += ink[:, :, None] * (colour - under)
    return box


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes (top, left, bottom, right) share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def network(classes: int = 10) -> nn.Module:
    """A small CNN: three stages of two 3x3 convolutions with BatchNorm and ReLU, global average pooling, one linear layer.

    x (n, 3, h, w), pictures scaled to -1 .. 1 -> logits (n, classes), one yes-or-no question a class.
    """

    def stage(before: int, after: int, stride: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i, step in ((before, stride), (after, 1)):
            layers += [nn.Conv2d(i, after, 3, step, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    named: dict[str, nn.Module] = {
        "stage1": stage(3, 24, 2),
        "pool1": nn.MaxPool2d(2),
        "stage2": stage(24, 48, 1),
        "pool2": nn.MaxPool2d(2),
        "stage3": stage(48, 96, 1),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "head": nn.Linear(96, classes),
    }
    model = nn.Sequential()
    for name, module in named.items():
        model.add_module(name, module)
    return model


def as_input(pictures: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) in -1 .. 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def train(
    made_of: Material, *, seed: int = 0, steps: int = 250, batch: int = 64, progress: Progress | None = None
) -> nn.Module:
    """Trains the network on freshly made pictures to say, for each digit, whether the picture holds it."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = network().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=steps)
    for step in range(steps):
        seen = scenes(made_of, batch, rng)
        x = as_input(seen.pictures).contiguous(memory_format=torch.channels_last)
        loss = F.binary_cross_entropy_with_logits(model(x), torch.from_numpy(seen.present).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress:
            progress("training", step + 1, steps)
    return model.eval()
