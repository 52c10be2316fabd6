"""Numbers that sum an attribution map up: how diffuse it is, how much lies on the person, the joint, other joints.

Every map is read as it is on its absolute values, in float64, so that signed and unnormalised maps will do. A map that
is all zero or not finite has no index: NaN. Axes: n samples, j joints, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from torchloupe.errors import BadInput

NAN = float("nan")


def diffusion(maps: Tensor) -> Tensor:
    """DI = 100 (1 - Gini),  Gini = sum_i (2 i - m - 1) v_i / (m sum_i v_i),  v the sorted |map| / max + 1e-7

    maps (..., h, w) -> (...) in (0, 100]: 100 for a uniform map, 100 / (h w) for a single pixel.
    Source: He et al. 2023, Analyzing and Diagnosing Pose Estimation with Attributions, CVPR.
    Differs: the map is divided by its maximum first, so that the 1e-7 means the same for every map.
    """
    flat = _weights(maps).flatten(-2)
    values = (flat / flat.amax(-1, keepdim=True) + 1e-7).sort(-1).values
    m = values.shape[-1]
    rank = torch.arange(1, m + 1, dtype=values.dtype, device=values.device)
    gini = ((2 * rank - m - 1) * values).sum(-1) / (m * values.sum(-1))
    return 100 * (1 - gini)


def foreground(maps: Tensor, mask: Tensor, size: int = 5) -> Tensor:
    """FI = share of |map| on the mask / share of the picture under the mask, the mask widened by a size x size maximum

    maps (n, j, h, w), mask (n, h, w) of 0 and 1 -> (n, j): 1 is no better than a uniform map. NaN without a mask.
    Source: He et al. 2023, CVPR.
    """
    if size % 2 == 0:
        raise BadInput(f"the size of the widening is odd, found {size}")
    wide = F.max_pool2d(mask[:, None].double(), size, stride=1, padding=size // 2)
    # max pooling drops NaN on some devices: a mask that is not known stays unknown
    wide = torch.where(mask.isfinite().all(-1).all(-1)[:, None, None, None], wide, NAN)
    return _share(maps, wide.expand(-1, maps.shape[1], -1, -1), "njhw,njhw->nj")


def locality(maps: Tensor, heatmaps: Tensor) -> Tensor:
    """LI = share of |map| under the joint's own true heatmap / share of a uniform map

    maps (n, j, h, w), heatmaps (n, j, any, any) >= 0 -> (n, j): 1 is no better than a uniform map.
    Source: He et al. 2023, CVPR.
    """
    return _share(maps, _enlarged(heatmaps, maps), "njhw,njhw->nj")


def relation(maps: Tensor, heatmaps: Tensor) -> Tensor:
    """RI[a, b] = LI of joint a's map under joint b's true heatmap

    maps (n, j, h, w), heatmaps (n, j, any, any) -> (n, j, j). The diagonal is the locality.
    Source: He et al. 2023, CVPR.
    """
    weights, wide = _weights(maps), _enlarged(heatmaps, maps)
    under = torch.einsum("nahw,nbhw->nab", weights, wide)
    return under / weights.sum((-2, -1))[:, :, None] * maps.shape[-2] * maps.shape[-1] / _sums(wide)[:, None, :]


def _weights(maps: Tensor) -> Tensor:
    values = maps.double().abs()
    sums = values.sum((-2, -1), keepdim=True)
    return torch.where(sums.isfinite() & (sums > 0), values, NAN)


def _sums(region: Tensor) -> Tensor:
    sums = region.sum((-2, -1))
    return torch.where(sums > 0, sums, NAN)


def _enlarged(heatmaps: Tensor, maps: Tensor) -> Tensor:
    return F.interpolate(heatmaps.double(), tuple(maps.shape[-2:]), mode="bilinear", align_corners=False)


def _share(maps: Tensor, region: Tensor, axes: str) -> Tensor:
    weights = _weights(maps)
    on = torch.einsum(axes, weights, region)
    return on / weights.sum((-2, -1)) * maps.shape[-2] * maps.shape[-1] / _sums(region)


def end_point_error(predicted: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """EPE = || predicted - true ||_2 in the unit of the coordinates; NaN where the joint is not annotated

    predicted and true (n, j, 2 or 3), weight (n, j) -> (n, j).
    """
    return torch.where(weight > 0, (predicted.double() - true.double()).norm(dim=-1), NAN)


def ranked(maps: Tensor) -> Tensor:
    """Every value replaced by its rank, 0 for the smallest and 1 for the largest; ties share their mean rank

    maps (..., h, w) -> the same shape, float64.
    """
    flat = maps.double().abs().flatten(-2)
    rows = flat.reshape(-1, flat.shape[-1])
    ranks = torch.empty_like(rows)
    for row, rank in zip(rows, ranks, strict=True):
        _, place, count = row.unique(return_inverse=True, return_counts=True)
        last = count.cumsum(0) - 1
        rank[:] = (last - (count - 1) / 2)[place]
    return (ranks / max(rows.shape[-1] - 1, 1)).reshape(maps.shape)


def dependency(predict: Callable[[Tensor], Tensor], x: Tensor, maps: Tensor, weight: Tensor) -> Tensor:
    """D[a, b] = || pred_a(x masked by b's map) - pred_a(x) ||,  masked: x (1 - r_b) + mean(x) r_b,  r_b the ranked map

    predict: (n, c, h, w) -> coordinates (n, j, d); x (n, c, h, w), maps (n, j, h, w), weight (n, j) -> (n, j, j), NaN
    where a or b is not annotated. One forward per joint that any sample shows.
    Source: He et al. 2023, CVPR.
    """
    n, j = weight.shape
    mean = x.mean((-2, -1), keepdim=True)
    found = torch.full((n, j, j), NAN, dtype=torch.float64)
    with torch.no_grad():
        plain = predict(x).double()
        for b in range(j):
            rows = (weight[:, b] > 0) & maps[:, b].isfinite().all(-1).all(-1)
            if not rows.any():
                continue
            share = ranked(maps[rows, b]).to(x.dtype)[:, None]
            masked = x[rows] * (1 - share) + mean[rows] * share
            found[rows, :, b] = (predict(masked).double() - plain[rows]).norm(dim=-1).cpu()
    return torch.where((weight > 0)[:, :, None], found, NAN)
