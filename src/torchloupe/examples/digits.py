"""A task whose answer is known: which digits are in this picture, and where. Real digits on real photographs.

scikit-learn's handwritten digits lie at random places and sizes on crops of scikit-image's photographs. A small network
learns to name them; since every digit's place is known, a heatmap that answers "where is the 7" can be marked right or wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from torchloupe.axes import resize
from torchloupe.errors import BadInput, NoGradient, need
from torchloupe.methods.cam import cams
from torchloupe.methods.registry import Method, needs_attention
from torchloupe.methods.registry import ours as every
from torchloupe.metrics.judge import Judgement, judge
from torchloupe.metrics.place import placed
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.targets.classes import Truth

SIDE = 64
SIZES = (16, 28)
CONTRAST = 0.25
TRIES = 20
DIMMED = 0.65
SHARE_SMALL = 0.4
CHUNK = 64
CLASSES = tuple("0123456789")
LAYERS = ("stage2", "stage3")
TRAINING_PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coins", "hubble_deep_field", "immunohistochemistry", "rocket"),
)
TEST_PHOTOGRAPHS = ("coffee", "grass", "gravel", "moon")
TEST_DIGITS = 450
# Slow methods are asked only the first of this many parts of the questions.
SLOW = {"smooth_gradcam_pp": 4, "ablationcam": 4, "smoothgrad": 8, "integrated_gradients": 8}
SLOW |= {
    "scorecam": 8,
    "occlusion": 16,
    "sscam": 40,
    "iscam": 40,
    "rise": 40,
    "gscorecam": 8,
    "vitcx": 16,
    "gradient_shap": 8,
}
Box = tuple[int, int, int, int]
Progress = Callable[[], None]


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


def ours() -> dict[str, Method]:
    """The methods that have a meaning for a convolutional network."""
    return {name: fn for name, fn in every().items() if not needs_attention(fn)}


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


def scenes(
    made_of: Material, n: int, rng: np.random.Generator, *, side: int = SIDE, least: int = 1, most: int = 3
) -> Scenes:
    """n pictures of least to most different digits, as far as they find a place, each on a random crop of a photograph."""
    pictures = np.empty((n, side, side, 3), np.uint8)
    boxes = np.full((n, len(CLASSES), 4), -1)
    which = [np.flatnonzero(made_of.labels == label) for label in range(len(CLASSES))]
    for i in range(n):
        canvas = background(made_of.photographs[rng.integers(len(made_of.photographs))], side, rng)
        taken: list[Box] = []
        for label in rng.permutation(len(CLASSES))[: rng.integers(least, most + 1)]:
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
    made_of: Material,
    *,
    seed: int = 0,
    steps: int = 1500,
    batch: int = 16,
    progress: Progress | None = None,
    make: Callable[[], nn.Module] = network,
    rate: float = 4e-3,
) -> nn.Module:
    """Trains a network (make) on freshly made pictures to say, for each digit, whether the picture holds it.

    The first SHARE_SMALL of the steps show one digit on a picture of half the side, which is learnt sooner. The next
    pictures are made while the network learns from the last ones. One thread computes, so that the same seed gives the same
    network on any number of cores.
    """
    rng = np.random.default_rng(seed)
    small = round(SHARE_SMALL * steps)
    with threads(1), torch.random.fork_rng(devices=[]), ThreadPoolExecutor(1) as aside:
        torch.manual_seed(seed)
        model = make().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)

        def made(step: int) -> Scenes:
            return scenes(made_of, batch, rng, side=SIDE // 2, most=1) if step < small else scenes(made_of, batch, rng)

        coming = aside.submit(made, 0)
        for step in range(steps):
            seen = coming.result()
            if step + 1 < steps:
                coming = aside.submit(made, step + 1)
            x = as_input(seen.pictures).contiguous(memory_format=torch.channels_last)
            loss = F.binary_cross_entropy_with_logits(model(x), torch.from_numpy(seen.present).float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if progress:
                progress()
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch computes with so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Accuracy(NamedTuple):
    """How well the network reads: right, the share of pictures of one digit whose highest score is that digit; found, the
    share of all digits whose score is above 0; invented, the share of absent digits whose score is above 0; exact, the
    share of pictures in which nothing is missed or invented."""

    right: float
    found: float
    invented: float
    exact: float


def accuracy(model: nn.Module, seen: Scenes) -> Accuracy:
    """Of the network on these pictures."""
    with torch.no_grad():
        logits = torch.cat([model(part) for part in as_input(seen.pictures).split(CHUNK)])
    present = torch.from_numpy(seen.present)
    said = logits > 0
    alone = present.sum(1) == 1
    right = present[alone].gather(1, logits[alone].argmax(1, keepdim=True))
    parts = (right, said[present], said[~present], (said == present).all(1))
    return Accuracy(*(part.double().mean().item() for part in parts))


def subject(model: nn.Module) -> Subject:
    """The network with the names of its classes and its default layer."""
    return Subject(model, layers=LAYERS[-1:], spec="torch:torchloupe.examples.digits:network", classes=CLASSES)


def as_batch(seen: Scenes, ids: Sequence[str]) -> Batch:
    """The pictures as the network takes them."""
    return Batch(as_input(seen.pictures), ids=tuple(ids), pictures=torch.from_numpy(seen.pictures)[:, None])


def questions(seen: Scenes) -> Batch:
    """One sample for each digit of each picture. truth: label (n,); boxes (n, 10, 4) of all digits; alone (n,) bool."""
    picture, label = np.nonzero(seen.present)
    ids = [f"picture {p}, digit {d}" for p, d in zip(picture, label, strict=True)]
    truth = {
        "label": torch.from_numpy(label),
        "boxes": torch.from_numpy(seen.boxes[picture]),
        "alone": torch.from_numpy(seen.present.sum(1)[picture] == 1),
    }
    return replace(as_batch(Scenes(seen.pictures[picture], seen.boxes[picture]), ids), truth=truth)


def inside(boxes: Tensor, side: int = SIDE) -> Tensor:
    """Boxes (..., 4) -> (..., side, side) bool: the pixels in each."""
    top, left, bottom, right = boxes[..., None, None].unbind(-3)
    at = torch.arange(side)
    rows, columns = at[:, None], at
    return (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)


class Place(NamedTuple):
    """Where the maps of n questions lie, each (n,) float64.

    points: 1 where the maximum is in the box of the asked digit (pointing game, without tolerance); elsewhere: 1 where it
    is in the box of another digit. mass: share of the positive part in the box; energy: share of the squares in the box.
    empty: 1 where nothing is positive; such a map points nowhere.
    Source: Zhang et al. 2016, Excitation backprop, arXiv:1608.00507 (pointing game); Wang et al. 2020, Score-CAM,
    arXiv:1910.01279 (mass, there called energy-based pointing game).
    """

    points: Tensor
    elsewhere: Tensor
    mass: Tensor
    energy: Tensor
    empty: Tensor


def place(maps: Tensor, batch: Batch) -> Place:
    """Where maps (1, n, 1, h, w) lie, resized to the pictures, on questions that carry their boxes."""
    values = resize(maps, batch.size)[0, :, 0].double().flatten(1)
    boxes, rows = batch.truth["boxes"], torch.arange(batch.n)
    asked = inside(boxes[rows, batch.truth["label"]]).flatten(1)
    others = inside(boxes).any(1).flatten(1) & ~asked
    top = values.argmax(1, keepdim=True)
    some = values.amax(1) > 0
    share = lambda part: (part * asked).sum(1) / part.sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    return Place(
        (asked.gather(1, top)[:, 0] & some).double(),
        (others.gather(1, top)[:, 0] & some).double(),
        share(values.clamp_min(0)),
        share(values.square()),
        (~some).double(),
    )


def chance(batch: Batch) -> Place:
    """What a uniform map would get on these questions: shares of area, exactly."""
    boxes, rows = batch.truth["boxes"], torch.arange(batch.n)
    areas = inside(boxes).double().mean((-2, -1))
    own = areas[rows, batch.truth["label"]]
    return Place(own, areas.sum(1) - own, own, own, torch.zeros_like(own))


@dataclass(frozen=True)
class Row:
    """One line of the table: a method at a layer, means over so many questions, milliseconds of CPU a question.

    alone and among: points in pictures of one digit, and of several. refused: why there are no numbers, or "".
    """

    method: str
    layer: str
    questions: int = 0
    points: float = 0.0
    alone: float = 0.0
    among: float = 0.0
    elsewhere: float = 0.0
    mass: float = 0.0
    energy: float = 0.0
    empty: float = 0.0
    milliseconds: float = 0.0
    refused: str = ""

    @classmethod
    def of(cls, method: str, layer: str, found: Place, batch: Batch, milliseconds: float = 0.0) -> Row:
        """Means of what was found on these questions."""
        mean = lambda part: part.mean().item() if len(part) else float("nan")
        alone = batch.truth["alone"]
        return cls(
            *(method, layer, batch.n, mean(found.points), mean(found.points[alone]), mean(found.points[~alone])),
            *(mean(found.elsewhere), mean(found.mass), mean(found.energy), mean(found.empty), milliseconds),
        )


def measure(model: nn.Module, batch: Batch, progress: Progress | None = None) -> list[Row]:
    """Every method at every layer of LAYERS, on these questions; slow ones on the first part of them, see SLOW.

    The first row is chance.
    """
    probe = Probe(subject(model), LAYERS, Truth(CLASSES))
    rows = [Row.of("chance", "", chance(batch), batch)]
    with threads(1):
        for name, ask in ours().items():
            some = batch.take(range(max(1, batch.n // SLOW.get(name, 1))))
            rows += asked(name, ask, probe, some)
            if progress:
                progress()
    return rows


def asked(name: str, ask: Callable[..., Maps], probe: Probe, batch: Batch) -> list[Row]:
    """One method at all the probe's layers; where it refuses, at each by itself, so that the others are still asked."""
    parts = [batch.take(range(i, min(i + CHUNK, batch.n))) for i in range(0, batch.n, CHUNK)]
    begin = time.process_time()
    try:
        found = [ask(probe, part).maps for part in parts]
    except (BadInput, NoGradient) as error:
        if len(probe.layers) == 1:
            return [Row(name, probe.layers[0], refused=str(error))]
        return [row for layer in probe.layers for row in asked(name, ask, probe.at(layer), batch)]
    spent = (time.process_time() - begin) / batch.n * 1000
    rows = []
    for layer in found[0]:
        places = [place(maps[layer], part) for maps, part in zip(found, parts, strict=True)]
        joined = Place(*(torch.cat(column) for column in zip(*places, strict=True)))
        rows.append(Row.of(name, layer, joined, batch, spent))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text, in per cent."""
    head = ("method", "layer", "asked", "points", "alone", "among", "elsewhere", "mass", "energy", "empty", "ms")
    wide = max(21, *(len(row.method) + 1 for row in rows))
    deep = max(8, *(len(row.layer) + 1 for row in rows))
    lines = [(f"{{:<{wide}}}{{:<{deep}}}" + "{:>6}{:>9}{:>8}{:>8}{:>11}{:>8}{:>8}{:>7}{:>7}").format(*head)]
    for row in rows:
        if row.refused:
            lines.append(f"{row.method:<{wide}}{row.layer:<{deep}}  refused: {row.refused.partition(';')[0]}")
            continue
        shares = (row.points, row.alone, row.among, row.elsewhere, row.mass, row.energy, row.empty)
        widths = (9, 8, 8, 11, 8, 8, 7)
        cells = "".join(
            f"{100 * share:>{width}.1f}".replace("nan", "  -") for share, width in zip(shares, widths, strict=True)
        )
        lines.append(f"{row.method:<{wide}}{row.layer:<{deep}}{row.questions:>6}{cells}{row.milliseconds:>7.1f}")
    return "\n".join(lines)


JUDGED = ("gradcam", "layercam", "hirescam", "eigengradcam", "eigencam")
TRUSTED = ("deletion", "insertion", "road", "pointing", "mass")


def judged(model: nn.Module, batch: Batch, progress: Callable[[int], None] | None = None) -> Judgement:
    """How far the maps of JUDGED at the first of LAYERS can be trusted on these questions, which carry their boxes.

    A probability of each digit; 12 points a curve, 3 percentiles; a maximum must lie in the box itself.
    """
    probe = Probe(subject(model), LAYERS[:1], Truth(CLASSES))
    own = batch.truth["boxes"][torch.arange(batch.n), batch.truth["label"]]
    placed_ones = placed(batch, masks=inside(own), others=inside(batch.truth["boxes"]).any(1))
    with threads(1):
        return judge(
            probe,
            placed_ones,
            cams(probe, batch, JUDGED),
            TRUSTED,
            value="sigmoid",
            steps=12,
            percentiles=(20, 50, 80),
            tolerance=0,
            progress=progress,
        )
