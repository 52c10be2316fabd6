"""Curves from a baseline to the picture, the blur among them, and where along a curve the gradients are best taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.methods.path import Path, quadrature
from torchloupe.probe import Batch, Probe

# (x (n, c, h, w), a (n,) in [0, 1]) -> the point of each sample's curve, x itself at a = 1
Curve = Callable[[Tensor, Tensor], Tensor]


def kernel(sigma: Tensor, taps: int) -> Tensor:
    """The Gaussian g(i) = exp(-i^2 / 2 sigma^2), i = -(taps-1)/2 .., summing to 1; sigma 0 is the unit impulse.

    sigma (n,) -> (n, taps) float64. The 1e-5 added to sigma is PoseIG's, and makes sigma 0 exact.
    """
    at = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    weight = torch.exp(-(at**2) / (2 * (sigma.cpu().double()[:, None] + 1e-5) ** 2))
    return weight / weight.sum(1, keepdim=True)


def blurred(x: Tensor, sigma: float | Tensor, taps: int = 31) -> Tensor:
    """x (n, c, h, w) convolved with a Gaussian of `taps` x `taps`, every channel for itself, reflecting at the edges.

    sigma: one, or one a sample (n,). The square kernel is the product of two lines, and a line along one side is a banded
    matrix, so that a blur is two products of matrices for all channels, two to four times as fast as convolutions.
    Errors: BadInput for an even number of taps, or a picture that is not larger than half of them.
    """
    n, _, h, w = x.shape
    reach = taps // 2
    if taps % 2 == 0:
        raise BadInput(f"the blur's number of taps is odd, found {taps}")
    if min(h, w) <= reach:
        raise BadInput(f"a blur of {taps} taps needs pictures of more than {reach} pixels, found {h} x {w}")
    lines = kernel(torch.as_tensor(sigma, dtype=torch.float64).reshape(-1).expand(n), taps)
    down, across = (_reflecting(lines, side).to(x)[:, None] for side in (h, w))
    return down @ x @ across.transpose(-2, -1)


def _reflecting(lines: Tensor, side: int) -> Tensor:
    """Weights (n, taps) as matrices (n, side, side) that lay them over every pixel of a line, reflecting at its ends."""
    n, taps = lines.shape
    at = (torch.arange(side)[:, None] + torch.arange(taps) - taps // 2).abs()
    at = torch.where(at > side - 1, 2 * (side - 1) - at, at)
    return torch.zeros(n, side, side, dtype=lines.dtype).scatter_add(
        2, at.expand(n, -1, -1), lines[:, None].expand(-1, side, -1)
    )


def blur_curve(sigma: float = 19.0, taps: int = 31, bend: float = 1.0) -> Curve:
    """x(a) = K_s * x,  s = sigma (1 - a)^bend: from the blurred picture to the picture."""
    if sigma <= 0:
        raise BadInput(f"the blur's sigma is more than 0, found {sigma}")
    return lambda x, a: blurred(x, sigma * (1 - a.double()) ** bend, taps)


def straight_curve(baseline: float | Tensor | Callable[[Tensor], Tensor] = 0.0) -> Curve:
    """x(a) = b + a (x - b): from a baseline (a value, a tensor like x, or made from x) to the picture."""

    def curve(x: Tensor, a: Tensor) -> Tensor:
        start = baseline(x) if callable(baseline) else torch.as_tensor(baseline).to(x)
        return start + a.to(x)[:, None, None, None] * (x - start)

    return curve


def along(curve: Curve, places: Callable[[int], Tensor], rule: str = "midpoint") -> Path:
    """A curve as a path: steps between places on it, each with the point where its gradient is taken.

    places: count -> (count, n) values of a from 0 to 1. rule: "midpoint", half way between the ends of a step, or
    "left", at its start. Steps sum to x(1) - x(0) exactly.
    """
    if rule not in ("midpoint", "left"):
        raise BadInput(f"no rule {rule!r} for a path along a curve; expected midpoint or left")

    def path(x: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        if steps < 1:
            raise BadInput(f"steps is {steps}; expected 1 or more")
        # ends of the steps and their middles, in turn
        at = places(2 * steps + 1).expand(-1, len(x))
        # the template's neighbours are nearly alike: in float32 their difference would keep four digits
        wide = x.double() if rule == "left" and x.device.type != "mps" else x
        here = curve(wide, at[0])
        for i in range(steps):
            there = curve(wide, at[2 * i + 2])
            point = here if rule == "left" else curve(wide, at[2 * i + 1])
            yield point.to(x.dtype), (there - here).to(x.dtype)
            here = there

    return path


def gauss_legendre(curve: Curve) -> Path:
    """A curve as a path by Gauss-Legendre: gradients at its nodes a_i, steps w_i * curve'(a_i) with the exact derivative

    Steps sum to x(1) - x(0) up to the quadrature's own error: give x(0) to poseig as `start`.
    """

    def path(x: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        for node, weight in zip(*quadrature(steps, "gauss-legendre"), strict=True):
            at = torch.full((len(x),), node, dtype=torch.float64)
            found = torch.func.jvp(lambda a: curve(x, a), (at,), (torch.ones_like(at),))
            yield found[0], found[1] * weight

    return path


def evenly(count: int) -> Tensor:
    """`count` places from 0 to 1 at equal distances, (count, 1)."""
    return torch.linspace(0, 1, count, dtype=torch.float64)[:, None]


def blur(sigma: float = 19.0, taps: int = 31, rule: str = "midpoint", bend: float = 2.0) -> Path:
    """The blur path: from the blurred picture to the picture, sigma(a) = sigma (1 - a)^bend at evenly spaced a

    Where along the curve the points lie does not change the integral, only how many it takes: a bent sigma puts more of
    them where the picture changes most. PoseIG's own path is blur(19, 31, "left", bend=1).
    Source: Xu et al. 2020, Attribution in Scale and Space, arXiv:2004.03383; He et al. 2023, PoseIG, CVPR.
    """
    return along(blur_curve(sigma, taps, bend), evenly, rule)


def scouted(curve: Curve, probe: Probe, batch: Batch, looks: int = 64, rule: str = "midpoint") -> Path:
    """A path whose points lie dense where this batch's scores and pictures change, found by `looks` forwards

    Places are spaced so that each step covers the same share of  1/2 ||dx|| / sum ||dx|| + 1/2 sum_j |ds_j| / sum |ds|,
    sample by sample. Forwards are cheap beside the backwards, one a question, that a point costs.
    batch: with the target's choices held fixed (from probe.ask).
    """
    if looks < 2:
        raise BadInput(f"looks is {looks}; expected 2 or more")
    x = batch.x.detach()
    # cubed, because a blur changes the picture mostly at its sharp end
    at = 1 - (1 - evenly(looks + 1)) ** 3
    points = (curve(x, a.expand(len(x))) for a in at)
    moved, answered = [], []
    for (before, old), (point, new) in pairwise((point, probe.ask(batch.at(point))[0].value) for point in points):
        moved.append((point - before).double().flatten(1).norm(dim=1).cpu())
        answered.append((new - old).double().abs().sum(0).cpu())
    shares = [torch.stack(part) for part in (moved, answered)]
    density = torch.stack([part / part.sum(0).clamp_min(1e-12) for part in shares]).sum(0) + 1e-3 / looks
    reached = torch.cat([torch.zeros(1, len(x)), density.cumsum(0) / density.sum(0)]).double()

    def places(count: int) -> Tensor:
        wanted = torch.linspace(0, 1, count, dtype=torch.float64)
        columns = [_interpolated(wanted, column.contiguous(), at[:, 0]) for column in reached.T]
        found = torch.stack(columns, 1)
        found[0], found[-1] = 0, 1
        return found

    return along(curve, places, rule)


def _interpolated(wanted: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The piecewise linear function through the points (x, y), x rising, at the wanted places."""
    right = torch.searchsorted(x, wanted).clamp(1, len(x) - 1)
    share = (wanted - x[right - 1]) / (x[right] - x[right - 1]).clamp_min(1e-300)
    return y[right - 1] + share.clamp(0, 1) * (y[right] - y[right - 1])
