"""How alike two maps are: Spearman's rank correlation, structural similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """Correlation along the last axis; NaN where one of the two is constant."""
    a, b = (part - part.mean(-1, keepdim=True) for part in (one, other))
    size = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    scale = one.abs().amax(-1) * other.abs().amax(-1) * one.shape[-1]
    vary = size > 1e-12 * scale
    return torch.where(vary, (a * b).sum(-1) / torch.where(vary, size, 1), float("nan"))


def ranked(values: Tensor) -> Tensor:
    """Ranks along the last axis from 0, equal values sharing the mean of theirs; float64."""
    flat = values.reshape(-1, values.shape[-1]).contiguous()
    rising = flat.sort(1).values
    first, behind = torch.searchsorted(rising, flat), torch.searchsorted(rising, flat, right=True)
    return ((first + behind - 1).double() / 2).view(values.shape)


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Rank correlation of maps (k, n, t, h, w) of the same size -> (k, n), -1 .. 1; NaN where one is constant."""
    return pearson(*(ranked(part.double().flatten(2)) for part in (one, other)))


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of maps (k, n, t, h, w), each scaled to 0 .. 1 by its own extremes -> (k, n); frame by frame, the mean.

    Windows of 7 x 7 (or as many as fit), sample covariance, K1 .01, K2 .03, as in scikit-image. NaN where one is constant.
    Source: Wang et al. 2004, Image quality assessment, IEEE TIP, doi:10.1109/TIP.2003.819861.
    """
    x, y = (_unit(part.double()) for part in (one, other))
    k, n, t, h, w = x.shape
    side = (min(WINDOW, h), min(WINDOW, w))
    count = side[0] * side[1]
    mean = lambda part: F.avg_pool2d(part.reshape(-1, 1, h, w), side, 1)
    mx, my = mean(x), mean(y)
    whole = count / max(count - 1, 1)
    vx, vy, vxy = whole * (mean(x * x) - mx * mx), whole * (mean(y * y) - my * my), whole * (mean(x * y) - mx * my)
    c1, c2 = 0.01**2, 0.03**2
    found = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return found.mean((1, 2, 3)).view(k, n, t).mean(2) + 0 * (x + y).mean((2, 3, 4))


def _unit(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3, 4), keepdim=True), maps.amax((2, 3, 4), keepdim=True)
    return torch.where(high > low, (maps - low) / torch.where(high > low, high - low, 1), float("nan"))
