"""Questions about detections and regions: which box of a detector, which part of a segmentation, is explained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.outputs import Scores
from torchloupe.probe import Batch
from torchloupe.targets.classes import class_index

SAME = 0.5
MOST = 100


class Detections(NamedTuple):
    """What a detector found in one picture, as every source of detectors gives it.

    boxes (m, 4): left, top, right, bottom in pixels of the input; scores (m,), differentiable; labels (m,).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Boxes:
    """The k best detections of each picture, held fixed:  Y = s_j with j = argmax IoU(b, b_j), or Y = max_j IoU(b, b_j) s_j,
    over detections j of the same class.

    Output n Detections -> scores (k, n). value "score": the score of the detection that lies on the box (IoU at least 0.5,
    else 0); "iou": the IoU-weighted score, which a box that moves away lowers as well.
    wanted: only detections of these classes, by index or name. threshold: the least score of a detection that is asked about.
    A picture with fewer detections has score 0 for the others.
    Errors: BadInput where a picture has no detection above the threshold.
    Source: Petsiuk et al. 2021, D-RISE, CVPR, arXiv:2006.03204, eq. 6, for the IoU-weighted score.
    """

    k: int = 1
    value: Literal["score", "iou"] = "score"
    threshold: float = 0.0
    wanted: tuple[int | str, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.k < 1 or self.value not in ("score", "iou"):
            raise BadInput(f"Boxes({self.k}, {self.value!r}): expected 1 or more boxes, and 'score' or 'iou'")

    def choose(self, output: Sequence[Detections], batch: Batch) -> Mapping[str, Tensor]:
        """{"boxes": (n, k, 4), "labels": (n, k)}, the best first; label -1 where there is none.

        "detections" (n, m, 6) beside them, to be drawn: boxes, scores and labels of the best MOST above the threshold, of any
        class.
        """
        found = check_detections(output, batch)
        boxes = torch.zeros(batch.n, self.k, 4, dtype=torch.float64)
        labels = torch.full((batch.n, self.k), -1)
        for i, one in enumerate(found):
            keep = (one.scores.detach() >= self.threshold) & self._asked(one.labels)
            order = one.scores.detach()[keep].argsort(descending=True)[: self.k]
            if not len(order):
                raise BadInput(f"{batch.ids[i]}: {self._nothing(one)}")
            boxes[i, : len(order)] = one.boxes.detach()[keep][order].double()
            labels[i, : len(order)] = one.labels[keep][order]
        return {"boxes": boxes, "labels": labels, "detections": listed(found, self.threshold)}

    def mirrored(self, asked: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        """What was chosen, for the batch with left and right changed over."""
        width = batch.size[2]
        boxes = asked["boxes"]
        flipped = torch.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], -1)
        return {**asked, "boxes": flipped}

    def __call__(self, output: Sequence[Detections], batch: Batch) -> Scores:
        found = check_detections(output, batch)
        asked = batch.asked or self.choose(found, batch)
        rows = [
            torch.stack(
                [self._value(one, asked["boxes"][i, j], int(asked["labels"][i, j])) for i, one in enumerate(found)]
            )
            for j in range(self.k)
        ]
        labels = tuple(
            tuple(self._label(asked["boxes"][i, j], int(asked["labels"][i, j])) for i in range(batch.n))
            for j in range(self.k)
        )
        return Scores(torch.stack(rows), labels)

    def _asked(self, labels: Tensor) -> Tensor:
        if not self.wanted:
            return torch.ones_like(labels, dtype=torch.bool)
        count = len(self.names) or int(1e9)
        index = [class_index(one, self.names, count) for one in self.wanted]
        return torch.isin(labels, torch.tensor(index, device=labels.device))

    def _nothing(self, found: Detections) -> str:
        """Why there is no box to ask about."""
        if not len(found.scores):
            return "the detector found nothing in this picture, at any score, so there is no box to ask about"
        asked = found.scores.detach()[self._asked(found.labels)]
        if not len(asked):
            wanted = ", ".join(map(str, self.wanted))
            return f"none of its {len(found.scores)} detections is of class {wanted}; take other classes"
        if asked.isnan().all():
            return "the score of every detection is NaN; check the weights and the input"
        best = asked[~asked.isnan()].max().item()
        return f"no detection scores {self.threshold:g} or more; its best has {best:.3g}; lower the threshold"

    def _value(self, found: Detections, box: Tensor, label: int) -> Tensor:
        same = found.labels == label
        nothing = found.scores.sum() * 0
        if not same.any():
            return nothing
        overlap = iou(box.to(found.boxes)[None], found.boxes[same])[0]
        if self.value == "iou":
            return (overlap * found.scores[same]).max()
        best = int(overlap.argmax())
        return found.scores[same][best] if overlap[best] >= SAME else nothing

    def _label(self, box: Tensor, label: int) -> str:
        if label < 0:
            return "no detection"
        name = self.names[label] if label < len(self.names) else f"class {label}"
        return f"{name} [{' '.join(f'{side:.0f}' for side in box.tolist())}]"


@dataclass(frozen=True)
class Region:
    """Classes of a segmentation, each over the region where the network sees it, held fixed:  Y_c = mean_{p in R_c} logit_cp.

    Output (n, classes, h, w) -> scores (k, n). wanted: classes by index or name; without any, the k classes that cover most
    of each picture; where fewer are seen, the others have score 0.
    Errors: BadInput for an output of another shape, and for a class that is seen nowhere in a picture.
    """

    wanted: tuple[int | str, ...] = ()
    k: int = 1
    names: tuple[str, ...] = field(default=(), repr=False)

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"classes": (n, k), "region": (n, k, h, w)}."""
        logits = check_regions(output, batch)
        seen = logits.detach().argmax(1)
        count = logits.shape[1]
        if self.wanted:
            index = torch.tensor([class_index(one, self.names, count) for one in self.wanted], device=seen.device)
            classes = index.expand(batch.n, -1)
        else:
            cover = torch.stack([one.flatten().bincount(minlength=count) for one in seen])
            most, classes = cover.topk(min(self.k, count), dim=1)
            classes = classes.where(most > 0, -1)
        region = seen[:, None] == classes[:, :, None, None]
        empty = (~region.flatten(2).any(2) & (classes >= 0)).nonzero().tolist()
        if empty:
            i, j = empty[0]
            raise BadInput(
                f"{batch.ids[i]}: no pixel is seen as {self._name(int(classes[i, j]))}; ask for another class"
            )
        return {"classes": classes, "region": region}

    def mirrored(self, asked: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        """What was chosen, for the batch with left and right changed over."""
        return {**asked, "region": asked["region"].flip(-1)}

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        logits = check_regions(output, batch)
        asked = batch.asked or self.choose(logits, batch)
        classes, region = asked["classes"].to(logits.device), asked["region"].to(logits.device)
        picked = logits.take_along_dim(classes.clamp_min(0)[:, :, None, None], dim=1)
        value = (picked * region).sum((2, 3)) / region.sum((2, 3)).clamp_min(1)
        return Scores(value.T, tuple(tuple(self._name(c) for c in row) for row in classes.T.tolist()))

    def _name(self, index: int) -> str:
        if index < 0:
            return "no region"
        return self.names[index] if index < len(self.names) else f"class {index}"


def boxes(
    words: Sequence[str],
    names: tuple[str, ...] = (),
    *,
    value: Literal["score", "iou"] = "score",
    threshold: float = 0.0,
) -> Boxes:
    """Words -> Boxes: "predicted" (the best one), "top3", and classes by index or name, of which the best is asked.

    Errors: BadInput for the true class, which no detection has.
    """
    count, wanted = _asked(words, "a detector's pictures have no one true class; ask for predicted, topK or classes")
    return Boxes(count or 1, value, threshold, wanted, names)


def regions(words: Sequence[str], names: tuple[str, ...] = ()) -> Region:
    """Words -> Region: "predicted" (the class that covers most), "top3", and classes by index or name.

    Errors: BadInput for the true class, which is not known at each pixel, and for classes beside topK.
    """
    count, wanted = _asked(words, "a segmenter's pictures have no one true class; ask for predicted, topK or classes")
    if count and wanted:
        raise BadInput(f"target {' '.join(words)}: expected either topK or classes, each over its own region")
    return Region(wanted, count or 1, names)


def _asked(words: Sequence[str], no_truth: str) -> tuple[int | None, tuple[int | str, ...]]:
    """How many, where it was said, and which classes."""
    count: int | None = None
    wanted: list[int | str] = []
    for word in words:
        plain = word.lower()
        if (found := re.fullmatch(r"top-?(\d+)", plain)) is not None:
            count = int(found[1])
        elif plain in ("truth", "true", "label"):
            raise BadInput(f"target {word!r}: {no_truth}")
        elif plain not in ("predicted", "pred", "prediction"):
            wanted.append(int(word) if word.isdigit() else word)
    return count, tuple(wanted)


def listed(found: Sequence[Detections], threshold: float) -> Tensor:
    """The best detections of every picture above a threshold, as numbers.

    n Detections -> (n, m, 6): left, top, right, bottom, score, label; m at most MOST, label -1 where there is none.
    """
    rows = []
    for one in found:
        scores = one.scores.detach()
        keep = (scores >= threshold).nonzero().flatten()
        keep = keep[scores[keep].argsort(descending=True)][:MOST]
        parts = (one.boxes.detach()[keep], scores[keep, None], one.labels[keep, None])
        rows.append(torch.cat([part.double().cpu() for part in parts], 1))
    held = torch.zeros(len(rows), max(map(len, rows), default=0), 6, dtype=torch.float64)
    held[..., 5] = -1
    for one, row in zip(held, rows, strict=True):
        one[: len(row)] = row
    return held


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes:  |A n B| / |A u B|.

    a (m, 4), b (k, 4), left top right bottom -> (m, k), in [0, 1]; 0 where both boxes are empty.
    """
    corner = torch.maximum(a[:, None, :2], b[None, :, :2])
    other = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (other - corner).clamp_min(0).prod(-1)
    area = [(one[:, 2:] - one[:, :2]).clamp_min(0).prod(-1) for one in (a, b)]
    union = area[0][:, None] + area[1][None] - both
    return torch.where(union > 0, both / torch.where(union > 0, union, 1), 0)


def confined(maps: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Heatmaps kept inside their boxes, 0 elsewhere.

    maps (k, n, t, h, w); boxes (n, k, 4) in pixels of a picture of this size (h, w), as in Boxes.choose. A cell of the map
    stays where its middle lies in the box; the cell around the box's middle always stays.
    """
    h, w = maps.shape[-2:]
    rows = (torch.arange(h, dtype=torch.float64) + 0.5) * size[0] / h
    columns = (torch.arange(w, dtype=torch.float64) + 0.5) * size[1] / w
    left, top, right, bottom = (side[..., None] for side in boxes.double().cpu().transpose(0, 1).unbind(-1))
    keep = []
    for middle, low, high, step in ((rows, top, bottom, size[0] / h), (columns, left, right, size[1] / w)):
        centre = ((low + high) / 2 / step).floor().clamp(0, len(middle) - 1)
        keep.append(((middle >= low) & (middle < high)) | (torch.arange(len(middle)) == centre))
    inside = keep[0][..., :, None] & keep[1][..., None, :]
    return maps * inside[:, :, None].to(maps.device)


def check_detections(output: Any, batch: Batch) -> Sequence[Detections]:
    """Errors: BadInput unless output is a list of n Detections."""
    fits = isinstance(output, (list, tuple)) and len(output) == batch.n
    if not fits or not all(isinstance(one, Detections) for one in output):
        raise BadInput(
            f"box targets need a detector, whose output is {batch.n} Detections; the model gave {type(output).__name__}"
        )
    return output


def check_regions(output: Any, batch: Batch) -> Tensor:
    """Errors: BadInput unless output is (n, classes, h, w)."""
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[0] != batch.n:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BadInput(f"region targets need a segmenter's output ({batch.n}, classes, h, w); the model gave {shape}")
    return output
