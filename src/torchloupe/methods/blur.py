"""The blur path: from a picture blurred to its own mean colours to the picture itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.methods.path import Path


def kernel(sigma: float, taps: int, like: Tensor) -> Tensor:
    """The Gaussian g(i) = exp(-i^2 / 2 sigma^2), i = -(taps-1)/2 .., summing to 1; sigma 0 is the unit impulse.

    The 1e-5 added to sigma is PoseIG's, and makes sigma 0 exact.
    """
    at = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    weight = torch.exp(-(at**2) / (2 * (sigma + 1e-5) ** 2))
    return (weight / weight.sum()).to(like)


def blurred(x: Tensor, sigma: float, taps: int = 31) -> Tensor:
    """x (n, c, h, w) convolved with a Gaussian of `taps` x `taps`, every channel for itself, reflecting at the edges.

    The square kernel is the product of two lines, so that two passes of `taps` do the work of one of taps^2.
    """
    if taps % 2 == 0:
        raise BadInput(f"the blur's number of taps is odd, found {taps}")
    if sigma == 0:
        return x
    line, reach = kernel(sigma, taps, x), taps // 2
    if min(x.shape[-2:]) <= reach:
        raise BadInput(f"a blur of {taps} taps needs pictures of more than {reach} pixels, found {tuple(x.shape[-2:])}")
    n, c, h, w = x.shape
    wide = F.pad(x, (reach, reach, reach, reach), mode="reflect").flatten(0, 1)[:, None]
    down = F.conv2d(wide, line.view(1, 1, -1, 1))
    return F.conv2d(down, line.view(1, 1, 1, -1)).view(n, c, h, w)


def blur(sigma: float = 19.0, taps: int = 31, rule: str = "midpoint", bend: float = 2.0) -> Path:
    """The path x(a) = K_sigma(a) * x from the blurred picture (a = 0) to the picture (a = 1)

    sigma(a) = sigma (1 - a)^bend. Where along the curve a point lies does not change the integral, only how many points
    it takes: a bent sigma puts more of them where the picture changes most. Steps sum to x - blurred x exactly.
    rule: "midpoint" takes the gradient in the middle of each step, "left" at its start.
    PoseIG's own path is blur(19, 31, "left", bend=1).
    Source: Xu et al. 2020, Attribution in Scale and Space, arXiv:2004.03383; He et al. 2023, PoseIG, CVPR.
    """
    if rule not in ("midpoint", "left"):
        raise BadInput(f"no rule {rule!r} for the blur path; expected midpoint or left")

    def path(x: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        if steps < 1:
            raise BadInput(f"steps is {steps}; expected 1 or more")

        def at(a: float) -> Tensor:
            return blurred(x, sigma * (1 - a) ** bend, taps)

        here = at(0.0)
        for i in range(steps):
            there = at((i + 1) / steps)
            yield here if rule == "left" else at((i + 0.5) / steps), there - here
            here = there

    return path
