"""Questions about joints, and how coordinates are read from heatmaps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchloupe.errors import BadInput, LoupeError, nearest
from torchloupe.outputs import Scores
from torchloupe.probe import Batch


class Anchored(NamedTuple):
    """Joints at every anchor of a model that finds people: points (n, a, j, 2) in pixels of the input, how sure it is of each,
    sure (n, a, j), and how well the anchor answers for the person of the crop, score (n, a)."""

    points: Tensor
    sure: Tensor
    score: Tensor

    def answering(self) -> Tensor:
        """(n,): the anchor of the highest score."""
        return self.score.detach().argmax(1)

    def at(self, anchor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Points (n, j, 2) and sure (n, j) of one anchor a sample; by default of the one that answers."""
        where = self.answering() if anchor is None else anchor.to(self.score.device)
        rows = torch.arange(len(where), device=where.device)
        return self.points[rows, where], self.sure[rows, where]


def soft_argmax(heatmaps: Tensor, beta: float = 10.0) -> Tensor:
    """(u, v) = sum over pixels of softmax(beta H) * (column, row)

    heatmaps (n, j, h, w) -> (n, j, 2) in heatmap pixels, u to the right, v down; differentiable.
    Source: Sun et al. 2018, Integral Human Pose Regression, arXiv:1711.08229; beta 10 as He et al. 2023, PoseIG, CVPR.
    """
    share = (beta * heatmaps).flatten(-2).softmax(-1).view_as(heatmaps)
    columns = torch.arange(heatmaps.shape[-1], dtype=share.dtype, device=share.device)
    rows = torch.arange(heatmaps.shape[-2], dtype=share.dtype, device=share.device)
    return torch.stack([(share.sum(-2) * columns).sum(-1), (share.sum(-1) * rows).sum(-1)], -1)


def peaks(heatmaps: Tensor, shift: bool = True) -> tuple[Tensor, Tensor]:
    """The highest pixel of each heatmap, moved a quarter pixel towards its higher neighbour in each direction

    heatmaps (n, j, h, w) -> coordinates (n, j, 2) in heatmap pixels, and the heights (n, j). A heatmap without a
    positive value has its peak at (0, 0). Peaks within one pixel of the upper or left edge, or at the lower or right
    one, are not moved, as in the published evaluation.
    Source: Xiao et al. 2018, arXiv:1804.06208.
    """
    _, _, h, w = heatmaps.shape
    height, index = heatmaps.flatten(-2).max(-1)
    column, row = index % w, index // w
    found = torch.stack([column, row], -1).to(heatmaps.dtype) * (height > 0)[..., None]
    if shift:
        column, row = found[..., 0].long(), found[..., 1].long()
        inner = (column > 1) & (column < w - 1) & (row > 1) & (row < h - 1)
        flat = heatmaps.flatten(-2)

        def at(down: int, across: int) -> Tensor:
            where = (row + down).clamp(0, h - 1) * w + (column + across).clamp(0, w - 1)
            return flat.gather(-1, where[..., None])[..., 0]

        slope = torch.stack([at(0, 1) - at(0, -1), at(1, 0) - at(-1, 0)], -1)
        found = found + 0.25 * slope.sign() * inner[..., None]
    return found, height


def exchanged(pairs: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Joint numbers 0 to count - 1 with the partners of each pair exchanged."""
    order = list(range(count))
    for left, right in pairs:
        order[left], order[right] = right, left
    return order


def merge_mirrored(heatmaps: Tensor, mirrored: Tensor, pairs: Sequence[tuple[int, int]], shift: bool) -> Tensor:
    """Flip test: mean of the heatmaps and of those of the mirrored picture, mirrored back with left and right exchanged

    heatmaps and mirrored (n, j, h, w); shift moves the mirrored ones a pixel to the right, which aligns them.
    """
    back = mirrored.flip(-1)[:, exchanged(pairs, heatmaps.shape[1])]
    if shift:
        back = torch.cat([back[..., :1], back[..., :-1]], -1)
    return (heatmaps + back) / 2


def predicted(output: Tensor | Anchored, beta: float = 10.0, anchor: Tensor | None = None) -> Tensor:
    """Coordinates of every joint: soft-argmax of heatmaps (n, j, h, w), or coordinates (n, j, 2 or 3) as they are; of a model
    with anchors those of the anchors (n,), by default of the ones that answer.

    Errors: BadInput for an output of another shape.
    """
    if isinstance(output, Anchored):
        return output.at(anchor)[0]
    if isinstance(output, Tensor) and output.ndim == 4:
        return soft_argmax(output, beta)
    if isinstance(output, Tensor) and output.ndim == 3 and output.shape[-1] in (2, 3):
        return output
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise BadInput(
        f"pose targets need heatmaps (n, joints, h, w) or coordinates (n, joints, 2 or 3); the model gave {shape}"
    )


def true(output: Tensor, batch: Batch, beta: float = 10.0) -> Tensor:
    """The true coordinates in the unit of the output: those of the true heatmaps, or truth["coordinates"].

    True heatmaps go through the same soft-argmax as predicted ones, so that both carry the same bias.
    Errors: BadInput where the batch does not know the truth, or knows another number of joints.
    """
    key = "heatmaps" if output.ndim == 4 else "coordinates"
    if key not in batch.truth:
        raise BadInput(f"where the joints are is not known: the batch has no truth[{key!r}]")
    known = batch.truth[key].to(output)
    if known.shape[1:] != output.shape[1:]:
        raise BadInput(
            f"the model gave {key} of {tuple(output.shape[1:])}, the truth has {tuple(known.shape[1:])}; "
            "check the number of joints and the sizes in the config"
        )
    return soft_argmax(known, beta) if output.ndim == 4 else known


@dataclass(frozen=True)
class Joints:
    """One question a joint:  s_j = exp( -rate * || predicted_j - true_j ||_2 ),  in (0, 1]

    Output heatmaps (n, j, h, w), distance in heatmap pixels, or coordinates (n, j, 2 or 3), distance in their unit. A model
    with anchors (`Anchored`) is asked about the one that answers on the picture itself, also at the points of a path.
    Truth: batch.truth["heatmaps"] or ["coordinates"], and ["weight"] (n, j), 0 where a joint is not annotated.
    Question i of a sample is its i-th annotated joint, so that k is the largest number of annotated joints in the
    batch; samples that have fewer answer 0 to the rest, under an empty label.

    score: your own (output, batch) -> scores (n, j) in place of the exponential, for models whose output is read otherwise.
    only: joints to ask about, by number or name; () = all. every: ask about joints that are not annotated too, as
    PoseIG's template does. names: of the joints, for the labels.
    Source: He et al. 2023, Analyzing and Diagnosing Pose Estimation with Attributions, CVPR.
    """

    only: tuple[int | str, ...] = ()
    every: bool = False
    beta: float = 10.0
    rate: float = 0.3
    score: Callable[[Any, Batch], Tensor] | None = None
    names: tuple[str, ...] = field(default=(), repr=False)

    def choose(self, output: Tensor | Anchored, batch: Batch) -> Mapping[str, Tensor]:
        """{"joints": (n, k)}, joint numbers, -1 where a sample has no further joint."""
        weight = batch.truth.get("weight")
        count = self._scores(output, batch).shape[1] if weight is None else weight.shape[1]
        if self.every or weight is None:
            asked = torch.ones(batch.n, count, dtype=torch.bool)
        else:
            asked = weight.cpu() > 0
        if self.only:
            chosen = torch.zeros(count, dtype=torch.bool)
            chosen[[joint_index(one, self.names, count) for one in self.only]] = True
            asked = asked & chosen
        k = int(asked.sum(1).max())
        # a stable sort of "not asked" brings the asked joints to the front, in their own order
        order = (~asked).to(torch.uint8).sort(dim=1, stable=True).indices[:, :k]
        found = {"joints": torch.where(asked.gather(1, order), order, -1)}
        if isinstance(output, Anchored):
            found["anchor"] = output.answering().cpu()
        return found

    def __call__(self, output: Tensor | Anchored, batch: Batch) -> Scores:
        scores = self._scores(output, batch)
        joints = (batch.asked or self.choose(output, batch))["joints"]
        index = joints.to(scores.device)
        value = torch.where(index >= 0, scores.gather(1, index.clamp_min(0)), 0.0).T
        labels = tuple(tuple(self._name(j) for j in row) for row in joints.T.tolist())
        return Scores(value, labels)

    def _scores(self, output: Any, batch: Batch) -> Tensor:
        """(n, j), one a joint."""
        if self.score is not None:
            try:
                found = self.score(output, batch)
            except LoupeError:
                raise
            except Exception as error:  # a stranger's function may fail in any way
                name = getattr(self.score, "__qualname__", type(self.score).__name__)
                raise BadInput(f"the score {name} failed with {type(error).__name__}: {error}") from error
            if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[0] != batch.n:
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise BadInput(f"the score is expected to be (samples, joints) = ({batch.n}, ...), found {shape}")
            return found
        held = batch.asked["anchor"] if batch.asked and "anchor" in batch.asked else None
        points = predicted(output, self.beta, held)
        known = true(output if isinstance(output, Tensor) else points, batch, self.beta)
        return torch.exp(-self.rate * (points - known).norm(dim=-1))

    def _name(self, joint: int) -> str:
        if joint < 0:
            return ""
        return self.names[joint] if self.names else str(joint)


def joint_index(wanted: int | str, names: Sequence[str], count: int) -> int:
    """A joint by number or name. Errors: BadInput that offers the nearest names."""
    if isinstance(wanted, int) or wanted.isdigit():
        if not 0 <= int(wanted) < count:
            raise BadInput(f"joint {wanted}: there are {count} joints, 0 to {count - 1}")
        return int(wanted)
    if wanted not in names:
        known = nearest(wanted, names) if names else f" Joints have no names here: give a number from 0 to {count - 1}"
        raise BadInput(f"no joint {wanted!r}.{known}")
    return list(names).index(wanted)


@dataclass(frozen=True)
class Peaks:
    """How sure the model is of a joint:  s_j = max over pixels of H_j, for pictures in which no joint is known

    only: joints, by number or name; () = the `top` joints with the highest peaks, picture by picture. each: one joint a
    picture, in order, "predicted" for its surest.
    Errors: BadInput for a model that gives coordinates, which tells no certainty; each with another number of pictures.
    """

    only: tuple[int | str, ...] = ()
    top: int = 1
    each: bool = False
    names: tuple[str, ...] = field(default=(), repr=False)

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"joints": (n, k)}, joint numbers."""
        heights = self._heights(output)
        surest = heights.topk(min(self.top, heights.shape[1]), 1).indices.cpu()
        if not self.only:
            return {"joints": surest}
        if self.each:
            if len(self.only) != batch.n:
                raise BadInput(f"{len(self.only)} joints for {batch.n} pictures; give one a picture")
            rows = zip(self.only, surest.tolist(), strict=True)
            numbers = [
                top if one == "predicted" else joint_index(one, self.names, heights.shape[1]) for one, (top,) in rows
            ]
            return {"joints": torch.tensor(numbers)[:, None]}
        numbers = [joint_index(one, self.names, heights.shape[1]) for one in self.only]
        return {"joints": torch.tensor([numbers] * batch.n)}

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        heights = self._heights(output)
        joints = (batch.asked or self.choose(output, batch))["joints"]
        labels = tuple(tuple(self.names[j] if self.names else f"joint {j}" for j in row) for row in joints.T.tolist())
        return Scores(heights.gather(1, joints.to(heights.device)).T, labels)

    def _heights(self, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise BadInput(
                "only heatmaps tell how sure a pose model is of a joint in any picture; one that gives coordinates is asked "
                "about known joints: loupe pose ig --method gradcam"
            )
        return output.flatten(2).amax(2)


def surest(words: Sequence[str], names: tuple[str, ...] = ()) -> Peaks:
    """Words -> Peaks: joints by number or name, or topK; the surest joint for none, and for "predicted".

    Errors: BadInput for joints and topK at once.
    """
    tops = [int(found[1]) for word in words if (found := re.fullmatch(r"top-?(\d+)", word.lower())) is not None]
    joints = tuple(
        word for word in words if word.lower() != "predicted" and not re.fullmatch(r"top-?\d+", word.lower())
    )
    if joints and tops:
        raise BadInput(f"joints {', '.join(joints)} and top{tops[0]} at once: give either")
    return Peaks(joints, max([1, *tops]), names=names)
