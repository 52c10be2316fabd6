"""What stands in for what was taken away: zero, black, mean, blur, noisy linear, inpainted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchloupe.errors import BadInput, nearest, need
from torchloupe.probe import Batch

FILLS = ("zero", "black", "mean", "blur", "linear", "inpaint")
BY_MASK = ("linear", "inpaint")
NOISE = 0.01
AT_ONCE = 200_000
RADIUS = 5
SIGMA = 5.0
DIRECT, DIAGONAL = 1 / 6, 1 / 12
DAMPING, OVER, COARSEST = 0.9, 1.6, 8
AROUND = ((0, 1, DIRECT), (1, 0, DIRECT), (1, 1, DIAGONAL), (1, -1, DIAGONAL))
"""Half of the eight neighbours of a cell (down, right, weight); the other half are the same edges seen from the other end."""

Fill = str | float


def check_fill(fill: Fill) -> None:
    """Errors: BadInput for a fill that is neither a name nor a number."""
    if isinstance(fill, str) and fill not in FILLS:
        raise BadInput(f"no fill {fill!r}.{nearest(fill, FILLS)} Known: {', '.join(FILLS)}, or a number.")


def background(x: Tensor, batch: Batch, fill: Fill) -> Tensor:
    """What a fill that does not depend on the mask puts in:  x (n, c, t, h, w) -> as x, or broadcastable to it.

    zero: 0 in the space in which the model takes its input (the mean colour of a normalised input). A number: that value there.
    black: the value of black, found from the pictures of the batch. mean: each sample's own mean of each channel.
    blur: Gaussian, 11 taps, sigma 5 pixels, 0 beyond the edge, frame by frame.
    Errors: BadInput for black where the batch does not tell what black is.
    """
    if not isinstance(fill, str):
        return x.new_full((1, 1, 1, 1, 1), float(fill))
    if fill == "zero":
        return x.new_zeros((1, 1, 1, 1, 1))
    if fill == "mean":
        return x.mean((2, 3, 4), keepdim=True)
    return black(x, batch) if fill == "black" else blurred(x)


def black(x: Tensor, batch: Batch) -> Tensor:
    """The value of black in each channel (1, c, 1, 1, 1), by a straight line through x and the pictures that it was made from.

    Errors: BadInput where there are no pictures, or x is no such line of them.
    """
    wrong = "fill 'black': it is not known what black is in the model's input"
    if batch.pictures is None or x.shape[1] != 3:
        raise BadInput(f"{wrong}, the batch has no colour pictures beside it; take 'zero', 'mean', 'blur' or a number")
    seen = batch.pictures.permute(0, 4, 1, 2, 3).to(x.device, torch.float64)
    if seen.shape != x.shape:
        raise BadInput(f"{wrong}, its pictures have another size; take 'zero', 'mean', 'blur' or a number")
    for picture in (seen, seen.flip(1)):
        level, value = picture.transpose(0, 1).flatten(1), x.double().transpose(0, 1).flatten(1)
        off = level - level.mean(1, keepdim=True)
        slope = (off * value).sum(1) / off.square().sum(1)
        start = value.mean(1) - slope * level.mean(1)
        gap = (value - slope[:, None] * level - start[:, None]).abs().amax(1)
        if (gap <= 0.75 * slope.abs()).all():
            return start.to(x).view(1, -1, 1, 1, 1)
    raise BadInput(f"{wrong}, its input is no straight line of its pictures; take 'zero', 'mean', 'blur' or a number")


def blurred(x: Tensor) -> Tensor:
    """Each frame under a Gaussian of 11 x 11 taps, sigma 5, whose weights sum to 1; beyond the edge x is 0.

    Source: Petsiuk et al. 2018, RISE, BMVC, arXiv:1806.07421, as in its authors' code.
    """
    taps = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype, device=x.device)
    weight = torch.exp(-taps.square() / (2 * SIGMA**2))
    weight = weight / weight.sum()
    n, c, t, h, w = x.shape
    flat = x.transpose(1, 2).reshape(-1, 1, h, w)
    flat = F.conv2d(flat, weight.view(1, 1, -1, 1), padding=(RADIUS, 0))
    flat = F.conv2d(flat, weight.view(1, 1, 1, -1), padding=(0, RADIUS))
    return flat.view(n, t, c, h, w).transpose(1, 2)


def imputed(x: Tensor, keep: Tensor, fill: str, seed: int) -> Tensor:
    """What a fill that depends on the mask puts in:  x (b, c, t, h, w), keep (b, 1, t, h, w) bool -> (b, c, t, h, w).

    Frame by frame; a frame of which nothing is kept gets the sample's mean of each channel.
    linear: see `linear`, plus N(0, 0.01^2) in the model's input space, one noise field for all samples and masks.
    inpaint: Telea's fast marching (OpenCV), radius 3.
    """
    b, c, t, h, w = x.shape
    frames, kept = x.transpose(1, 2).reshape(b * t, c, h, w), keep.transpose(1, 2).reshape(b * t, 1, h, w)
    mean = x.mean((2, 3, 4))[:, None].expand(b, t, c).reshape(b * t, c, 1, 1)
    if fill == "inpaint":
        found = inpainted(frames, kept)
    else:
        # as many frames at once as stay in the processor's cache; the answers are the same
        size = max(1, AT_ONCE // (c * h * w))
        found = torch.cat([linear(*part) for part in zip(frames.split(size), kept.split(size), strict=True)])
    found = torch.where(kept.flatten(1).any(1)[:, None, None, None], found, mean)
    found = found.view(b, t, c, h, w).transpose(1, 2)
    if fill == "linear":
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, c, t, h, w), generator=generator, dtype=torch.float64)
        found = found + NOISE * noise.to(found)
    return found


def inpainted(frames: Tensor, kept: Tensor) -> Tensor:
    """Telea 2004, An image inpainting technique based on the fast marching method, channel by channel, by OpenCV.

    frames (b, c, h, w), kept (b, 1, h, w) bool -> (b, c, h, w). Errors: MissingPackage without OpenCV.
    """
    try:
        import cv2
    except ImportError:
        raise need("opencv-python-headless", "trust") from None
    found = frames.detach().cpu().float().clone()
    for picture, known in zip(found, kept[:, 0].cpu(), strict=True):
        if known.any() and not known.all():
            hole = (~known).numpy().astype("uint8")
            for channel in picture:
                channel.copy_(torch.from_numpy(cv2.inpaint(channel.numpy(), hole, 3, cv2.INPAINT_TELEA)))
    return found.to(frames)


def linear(frames: Tensor, kept: Tensor, tolerance: float = 1e-5, most: int = 100) -> Tensor:
    """Every unknown cell is the weighted mean of its eight neighbours, direct 1/6, diagonal 1/12, renormalised at the edge.

    frames (b, c, h, w), kept (b, 1, h, w) bool -> (b, c, h, w); what is kept stays as it is. One symmetric system a frame,
    solved by conjugate gradients under a multigrid of 2 x 2 aggregates until the residual has fallen to tolerance of the
    right side. Frames of which nothing is kept have no solution and come back as they are.
    Source: Rong et al. 2022, A consistent and efficient evaluation strategy for attribution methods, ICML,
    arXiv:2202.00449 (noisy linear imputation).
    """
    hole = ~kept & kept.flatten(1).any(1)[:, None, None, None]
    if not hole.any():
        return frames
    unknown = hole.to(frames)
    whole = around(torch.ones_like(unknown)) * unknown
    right = around(torch.where(hole, 0, frames)) * unknown
    levels = list(_levels(unknown, whole))
    x = torch.zeros_like(right)
    residual = right
    goal = tolerance * right.flatten(2).norm(dim=2)[..., None, None]
    way: Tensor | None = None
    inner = torch.ones_like(goal)
    for _ in range(most):
        # a channel that is done stands still, so that its answer does not depend on what else is in the batch
        going = residual.flatten(2).norm(dim=2)[..., None, None] > goal
        if not going.any():
            break
        step = _cycle(levels, residual)
        new = (residual * step).sum((2, 3), keepdim=True)
        way = torch.addcmul(step, _over(new, inner), way) if way is not None else step
        inner = new
        pushed = levels[0].apply(way)
        length = _over(inner, (way * pushed).sum((2, 3), keepdim=True)) * going
        x.addcmul_(length, way)
        residual = torch.addcmul(residual, length, pushed, value=-1)
    return torch.where(hole, x, frames)


def around(values: Tensor) -> Tensor:
    """Sum over the eight neighbours times their weights:  ((1, 2, 1) x (1, 2, 1) - 4 at the middle) / 12; 0 beyond the edge."""
    across = 2 * values
    across[..., 1:] += values[..., :-1]
    across[..., :-1] += values[..., 1:]
    found = 2 * across
    found[..., 1:, :] += across[..., :-1, :]
    found[..., :-1, :] += across[..., 1:, :]
    return found.sub_(values, alpha=4).mul_(DIAGONAL)


def _over(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), 0)


class _Level:
    """One grid of the multigrid: edges to the four neighbours of AROUND, their sum with what is held fixed, and its inverse.

    unknown: given at the finest grid, whose edges all have the weights of AROUND. direct: the inverse of the whole matrix, of the
    coarsest grid.
    """

    def __init__(self, edges: list[Tensor], ground: Tensor, unknown: Tensor | None = None) -> None:
        self.edges, self.unknown, self.ground = edges, unknown, ground
        total = ground.clone()
        self.pairs = []
        for (down, right, _), edge in zip(AROUND, edges, strict=True):
            here, there = _ends(down, right)
            total += edge
            total[there] += edge[here]
            self.pairs.append((here, there, edge[here]))
        self.total, self.there = total, (total > 0).to(total)
        self.damped = torch.where(total > 0, DAMPING / torch.where(total > 0, total, 1), 0)
        self.direct = self._inverse() if max(ground.shape[-2:]) <= COARSEST else None

    def apply(self, values: Tensor) -> Tensor:
        """The matrix of this grid times values (b, c, h, w), which are 0 where nothing is unknown."""
        found = self.total * values
        if self.unknown is not None:
            return found.addcmul_(around(values), self.unknown, value=-1)
        for here, there, edge in self.pairs:
            found[here].addcmul_(edge, values[there], value=-1)
            found[there].addcmul_(edge, values[here], value=-1)
        return found

    def solved(self, right: Tensor) -> Tensor:
        """The exact answer on the coarsest grid, 0 where nothing is unknown."""
        assert self.direct is not None
        return (self.direct @ right.flatten(2).mT).mT.view_as(right)

    def _inverse(self) -> Tensor:
        """(b, cells, cells): the inverse of the matrix, whose rows of nothing unknown are 0."""
        b, _, h, w = self.total.shape
        whole = self.total.new_zeros(b, h * w, h * w)
        number = torch.arange(h * w, device=whole.device).view(h, w)
        for here, there, edge in self.pairs:
            one, other = number[here[1:]].flatten(), number[there[1:]].flatten()
            whole[:, one, other] = whole[:, other, one] = -edge.flatten(1)
        flat, active = self.total.flatten(1), self.there.flatten(1)
        whole = whole + torch.diag_embed(flat + (1 - active))
        return torch.linalg.inv(whole.double()).to(whole) * active[:, None] * active[..., None]


def _ends(down: int, right: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Where the cells lie that have a neighbour (down, right), and where those neighbours lie."""
    one = lambda step: slice(None, -step) if step > 0 else slice(-step, None)
    other = lambda step: slice(step, None) if step > 0 else slice(None, step or None)
    return (..., one(down), one(right)), (..., other(down), other(right))


def _shifted(values: Tensor, down: int, right: int) -> Tensor:
    """The value of the neighbour (down, right) of each cell, 0 beyond the edge."""
    h, w = values.shape[-2:]
    found = F.pad(values, (max(0, -right), max(0, right), max(0, -down), max(0, down)))
    top, left = max(0, down), max(0, right)
    return found[..., top : top + h, left : left + w]


def _levels(unknown: Tensor, whole: Tensor) -> Iterator[_Level]:
    edges = [weight * unknown * _shifted(unknown, down, right) for down, right, weight in AROUND]
    inside = sum(edge + _shifted(edge, -down, -right) for (down, right, _), edge in zip(AROUND, edges, strict=True))
    ground = (whole - inside).clamp_min(0) * unknown
    level = _Level(edges, ground, unknown)
    while True:
        yield level
        if level.direct is not None:
            return
        level = _Level(*_coarser(level.edges, level.ground))


def _coarser(edges: list[Tensor], ground: Tensor) -> tuple[list[Tensor], Tensor]:
    """Sums over aggregates of 2 x 2 cells: edges inside one vanish, those between two add up."""
    h, w = ground.shape[-2:]
    pad = (0, w % 2, 0, h % 2)
    ground = F.avg_pool2d(F.pad(ground, pad), 2) * 4
    found = [torch.zeros_like(ground) for _ in AROUND]
    places = {(down, right): number for number, (down, right, _) in enumerate(AROUND)}
    for (down, right, _), edge in zip(AROUND, edges, strict=True):
        edge = F.pad(edge, pad)
        for row in (0, 1):
            for column in (0, 1):
                to = ((row + down) // 2, (column + right) // 2)
                part = edge[..., row::2, column::2]
                if to in places:
                    found[places[to]] = found[places[to]] + part
                elif to != (0, 0):
                    back = (-to[0], -to[1])
                    found[places[back]] = found[places[back]] + _shifted(part, -to[0], -to[1])
    return found, ground


def _cycle(levels: list[_Level], right: Tensor, depth: int = 0) -> Tensor:
    """One symmetric V cycle from 0: a damped Jacobi step, the coarser grid, a damped Jacobi step."""
    level = levels[depth]
    if level.direct is not None:
        return level.solved(right)
    x = level.damped * right
    h, w = right.shape[-2:]
    rest = right - level.apply(x)
    rest = F.avg_pool2d(F.pad(rest, (0, w % 2, 0, h % 2)) if h % 2 or w % 2 else rest, 2, divisor_override=1)
    lift = _cycle(levels, rest, depth + 1).repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :h, :w]
    x.addcmul_(lift, level.there, value=OVER)
    return x.addcmul_(level.damped, right - level.apply(x))
