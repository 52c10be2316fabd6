"""Where a map lies, where the truth is known: pointing game, energy, mass and rank, best IoU. None says that a map is faithful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from torchloupe.axes import resize
from torchloupe.errors import BadInput
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.cells import Cells
from torchloupe.metrics.marks import Heat, Marks, Number
from torchloupe.metrics.registry import metric
from torchloupe.metrics.shape import POSITIVE
from torchloupe.probe import Batch

PLACE, OTHERS = "place", "others"
SIZES = (("small", 0.0, (32 / 224) ** 2), ("medium", (32 / 224) ** 2, (96 / 224) ** 2), ("large", (96 / 224) ** 2, 1.1))
"""COCO's small, medium and large, as shares of a picture of 224 x 224."""


def placed(
    batch: Batch,
    *,
    masks: Tensor | None = None,
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    points: Sequence[Sequence[Sequence[float]]] | None = None,
    others: Tensor | None = None,
) -> Batch:
    """The batch with the truth that metrics of place need, of one kind.

    masks: (n, h, w), (n, t, h, w) or (n, k, t, h, w) bool, k questions. boxes: a list a sample of (left, top, right,
    bottom) in pixels of the input, the last two exclusive; points: a list a sample of (column, row); they join into one mask.
    others: masks of the other objects, likewise. A sample without truth has an empty mask, and no number.
    Errors: BadInput for truth of other samples or of another size.
    """
    given = [name for name, part in (("masks", masks), ("boxes", boxes), ("points", points)) if part is not None]
    if len(given) != 1:
        raise BadInput(f"truth of {' and '.join(given) or 'no kind'}: give masks, boxes or points")
    size = batch.size
    if masks is None:
        lists = boxes if boxes is not None else points
        assert lists is not None
        if len(lists) != batch.n:
            raise BadInput(f"{given[0]} of {len(lists)} samples for {batch.n}")
        masks = torch.stack([_drawn(batch.ids[i], one, size, given[0]) for i, one in enumerate(lists)])
    truth = {**batch.truth, PLACE: _masks(masks, batch, given[0])}
    if others is not None:
        truth[OTHERS] = _masks(others, batch, "others") & ~truth[PLACE]
    return replace(batch, truth=truth)


def _drawn(id: str, shapes: Sequence[Sequence[float]], size: tuple[int, int, int], kind: str) -> Tensor:
    t, h, w = size
    found = torch.zeros(t, h, w, dtype=torch.bool)
    for one in shapes:
        if kind == "points":
            column, row = (int(side) for side in one)
            box = (column, row, column + 1, row + 1)
        else:
            left, top, right, bottom = one
            if right <= left or bottom <= top:
                raise BadInput(f"{id}: box {tuple(one)} has no area; expected left, top, right, bottom")
            box = (round(left), round(top), max(round(left) + 1, round(right)), max(round(top) + 1, round(bottom)))
        left, top, right, bottom = box
        if right <= 0 or bottom <= 0 or left >= w or top >= h:
            raise BadInput(
                f"{id}: {kind[:-1] if kind != 'boxes' else 'box'} {tuple(one)} lies outside the input of {w} x {h}"
            )
        found[:, max(0, top) : bottom, max(0, left) : right] = True
    return found


def _masks(masks: Tensor, batch: Batch, kind: str) -> Tensor:
    shape = tuple(masks.shape)
    if masks.ndim == 3:
        masks = masks[:, None]
    if masks.ndim == 4:
        masks = masks[:, None]
    size = batch.size
    if masks.ndim != 5 or len(masks) != batch.n or masks.shape[-2:] != size[1:] or masks.shape[2] not in (1, size[0]):
        raise BadInput(f"{kind} of shape {shape} for {batch.n} samples of {size} (t, h, w)")
    return masks.bool().expand(-1, -1, size[0], -1, -1)


def _truth(asking: Asking, key: str = PLACE) -> Tensor:
    """(k, n, t, h, w) bool."""
    found = asking.batch.truth[key].transpose(0, 1)
    if len(found) not in (1, asking.k):
        raise BadInput(f"truth[{key!r}] answers {len(found)} questions, the probe asks {asking.k}")
    return found.expand(asking.k, -1, -1, -1, -1).cpu()


def _positive(heat: Heat, asking: Asking) -> Tensor:
    return resize(heat.values.double(), asking.batch.size).clamp_min(0).cpu()


def _share(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), float("nan"))


def dilated(masks: Tensor, radius: int) -> Tensor:
    """Masks (..., h, w) bool grown by a disc of so many pixels."""
    if radius == 0:
        return masks
    side = torch.arange(-radius, radius + 1)
    disc = (side[:, None].square() + side.square() <= radius**2).float()[None, None]
    flat = masks.flatten(0, -3)[:, None].float()
    return (F.conv2d(flat, disc, padding=radius) > 0.5)[:, 0].view(masks.shape)


def by_size(numbers: Mapping[str, Number], asking: Asking) -> dict[str, Number]:
    """The numbers, and each once more over the objects of one size, small, medium and large, as NAME_small ..., where there are any.

    The size is the share of the picture that the object of the question takes, the mean of the frames that show it.
    """
    truth = _truth(asking)
    shown = truth.flatten(3).any(3).sum(2).double()
    area = _share(truth.double().mean((3, 4)).sum(2), shown)
    found = dict(numbers)
    for label, low, high in SIZES:
        outside = ~((area >= low) & (area < high))
        if outside.all():
            continue
        blank = lambda value, outside=outside: value.masked_fill(outside, float("nan"))
        for name, number in numbers.items():
            level = None if number.chance is None else blank(number.chance.expand_as(outside))
            value = {key: blank(one) for key, one in number.value.items()}
            found[f"{name}_{label}"] = Number(value, number.better, level)
    return found


@metric(needs=PLACE)
def pointing(asking: Asking, heats: Mapping[str, Heat], *, tolerance: int | None = None) -> Marks:
    """Pointing game:  does the map's maximum lie on the object, or within the tolerance of it?

    tolerance: pixels of the input around the object that count too; None = 15 for an input of 224, in proportion for others.
    Of several equal maxima the share that hits; over time the mean of the frames that show the object; a map without a
    positive value points nowhere and has no number.
    Numbers: pointing, high is good, chance = share of the area of the grown object; where the truth tells other objects
    (truth["others"]), pointing_against: whether the maximum over all objects lies on this one, chance = its share of their area.
    As all numbers of place also by size of the object, as pointing_small, pointing_medium and pointing_large (COCO's sizes, scaled
    to the input), where there are any.
    Source: Zhang et al. 2016, Top-down neural attention by excitation backprop, ECCV, arXiv:1608.00507; tolerance as in TorchRay.
    """
    radius = round(15 * min(asking.batch.size[1:]) / 224) if tolerance is None else tolerance
    if radius < 0:
        raise BadInput(f"tolerance is {tolerance}; expected 0 or more pixels")
    truth = _truth(asking)
    grown, shown = dilated(truth, radius).flatten(3), truth.flatten(3).any(3)
    value = {}
    for name, heat in heats.items():
        flat = resize(heat.values.double(), asking.batch.size).flatten(3).cpu()
        top = flat.amax(3, keepdim=True)
        tied = (flat == top) & (top > 0)
        counted = shown & tied.any(3)
        hit = _share((tied & grown).sum(3).double(), tied.sum(3).double())
        value[name] = _share(torch.where(counted, hit, 0).sum(2), counted.sum(2).double())
    level = _share(torch.where(shown, grown.double().mean(3), 0).sum(2), shown.sum(2).double())
    numbers = {"pointing": Number(value, "high", level)}
    if OTHERS in asking.batch.truth:
        numbers["pointing_against"] = _against(asking, heats, truth)
    return Marks(by_size(numbers, asking))


def _against(asking: Asking, heats: Mapping[str, Heat], truth: Tensor) -> Number:
    """Whether the maximum over all objects lies on the one that is asked for; NaN where there is no other, or no positive value."""
    others = _truth(asking, OTHERS)
    there = (truth | others).flatten(2)
    rivals = truth.flatten(2).any(2) & others.flatten(2).any(2)
    value = {}
    for name, heat in heats.items():
        flat = _positive(heat, asking).flatten(2).where(there, torch.zeros((), dtype=torch.float64))
        tied = (flat == flat.amax(2, keepdim=True)) & (flat > 0)
        hit = _share((tied & truth.flatten(2)).sum(2).double(), tied.sum(2).double())
        value[name] = hit.masked_fill(~rivals, float("nan"))
    level = _share(truth.flatten(2).sum(2).double(), there.sum(2).double())
    return Number(value, "high", level.masked_fill(~rivals, float("nan")))


@metric(needs=PLACE, unsigned=POSITIVE)
def mass(asking: Asking, heats: Mapping[str, Heat]) -> Marks:
    """Relevance mass and rank accuracy:  mass = sum of a on the object / sum of a,  rank = share of the K highest pixels on it

    a: the positive part of the map, resized to the input; K the object's pixels, ties in one random order.
    Numbers: mass and rank, high is good, 0 .. 1, chance = the object's share of the area; where the truth tells other objects
    (truth["others"]), mass_against = mass on the object / mass on all objects, chance = its share of their area.
    Source: Arras et al. 2022, CLEVR-XAI, Information Fusion, arXiv:2003.07258.
    """
    truth = _truth(asking)
    area = truth.double().mean((2, 3, 4))
    area = area.masked_fill(area == 0, float("nan"))
    others = _truth(asking, OTHERS) if OTHERS in asking.batch.truth else None
    own, order, against = {}, {}, {}
    cells = Cells(asking.batch.size)
    ranks = cells.ranks(heats, asking.seed)
    size = truth.flatten(2).sum(2)
    for name, heat in heats.items():
        a = _positive(heat, asking)
        inside, whole = (a * truth).sum((2, 3, 4)), a.sum((2, 3, 4))
        nothing = area.isnan() | (whole <= 0)
        own[name] = _share(inside, whole).masked_fill(nothing, float("nan"))
        first = ranks[name] < size[..., None]
        order[name] = _share((first & truth.flatten(2)).sum(2).double(), size.double()).masked_fill(
            nothing, float("nan")
        )
        if others is not None:
            rivals = (a * others).sum((2, 3, 4))
            alone = ~others.flatten(2).any(2)
            against[name] = _share(inside, inside + rivals).masked_fill(nothing | alone, float("nan"))
    numbers = {"mass": Number(own, "high", area), "rank": Number(order, "high", area)}
    if others is not None:
        both = area + others.double().mean((2, 3, 4))
        level = (area / both).masked_fill(~others.flatten(2).any(2), float("nan"))
        numbers["mass_against"] = Number(against, "high", level)
    return Marks(by_size(numbers, asking))


@metric(needs=PLACE)
def energy(asking: Asking, heats: Mapping[str, Heat]) -> Marks:
    """Energy-based pointing game:  sum of a on the object / sum of a,  a the map scaled to 0 .. 1 by its own extremes

    The same as mass for a map whose least value is 0; of a signed map the evidence against counts least, not nothing.
    Numbers: energy, high is good, 0 .. 1, chance = the object's share of the area.
    Source: Wang et al. 2020, Score-CAM, CVPR workshops, arXiv:1910.01279.
    """
    truth = _truth(asking)
    area = truth.double().mean((2, 3, 4))
    area = area.masked_fill(area == 0, float("nan"))
    value = {}
    for name, heat in heats.items():
        fine = resize(heat.values.double(), asking.batch.size).cpu()
        a = fine - fine.amin((2, 3, 4), keepdim=True)
        value[name] = _share((a * truth).sum((2, 3, 4)), a.sum((2, 3, 4))).masked_fill(area.isnan(), float("nan"))
    return Marks(by_size({"energy": Number(value, "high", area)}, asking))


@metric(needs=PLACE)
def iou(asking: Asking, heats: Mapping[str, Heat]) -> Marks:
    """Best IoU:  max over thresholds c of  | {a >= c} and the object | / | {a >= c} or the object |

    The threshold is the best for each map, so the number is what the map could do, and a map that says nothing still gets the
    object's share of the area (the whole picture).
    Numbers: iou, high is good, 0 .. 1.
    Source: Choe et al. 2020, Evaluating weakly supervised object localization methods right, CVPR, arXiv:2001.07437.
    Differs: pixels in place of boxes; the threshold is chosen for each map in place of the whole set.
    """
    truth = _truth(asking).flatten(2)
    size = truth.sum(2, keepdim=True).double()
    value = {}
    for name, heat in heats.items():
        flat = resize(heat.values.double(), asking.batch.size).flatten(2).cpu()
        falling, order = flat.sort(2, descending=True)
        hits = truth.gather(2, order).cumsum(2).double()
        taken = torch.arange(1, flat.shape[2] + 1, dtype=torch.float64)
        overlap = hits / (taken + size - hits)
        ends = F.pad(falling[..., 1:] != falling[..., :-1], (0, 1), value=True)
        empty = (size[..., 0] == 0) | (flat == 0).all(2)
        value[name] = overlap.masked_fill(~ends, 0).amax(2).masked_fill(empty, float("nan"))
    return Marks(by_size({"iou": Number(value, "high")}, asking))
