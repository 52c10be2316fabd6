"""Numbers that sum an attribution map up: how diffuse it is, how much lies on the person, the joint, other joints.

Every map is read as it is on its absolute values, in float64, so that signed and unnormalised maps will do. A map that
is all zero or not finite has no index: NaN. Axes: n samples, j joints, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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


class Inversions(NamedTuple):
    """taken[n, a, b]: joint a was predicted at joint b. swapped[n, a, b]: and b at a (symmetric)."""

    taken: Tensor
    swapped: Tensor


def inversions(predicted: Tensor, true: Tensor, weight: Tensor, reach: float = 10.0) -> Inversions:
    """a is taken for b  <=>  || pred_a - true_a || > reach  and  || pred_a - true_b || < reach,  both visible

    predicted and true (n, j, d) in input pixels, weight (n, j) -> two (n, j, j) of booleans.
    Source: He et al. 2023, CVPR, with their reach of 10 input pixels.
    """
    away = (predicted[:, :, None].double() - true[:, None].double()).norm(dim=-1)
    own = away.diagonal(dim1=-2, dim2=-1)
    visible = weight > 0
    # a joint cannot be taken for itself: it would have to be both within reach and out of it
    taken = (own > reach)[:, :, None] & (away < reach) & visible[:, :, None] & visible[:, None]
    return Inversions(taken, taken & taken.transpose(-2, -1))


class RelationOfPairs(NamedTuple):
    """Mean RI over inverted pairs and over all other visible pairs, and how many there are of each."""

    inverted: float
    others: float
    inverted_pairs: int
    other_pairs: int


def relation_of_pairs(ri: Tensor, taken: Tensor, weight: Tensor) -> RelationOfPairs:
    """Mean RI[a, b] of the pairs where a was taken for b, against that of all other pairs of visible joints

    ri and taken (n, j, j), weight (n, j). NaN where there is no such pair.
    """
    visible = (weight > 0)[:, :, None] & (weight > 0)[:, None]
    pairs = visible & ~torch.eye(ri.shape[-1], dtype=torch.bool) & ri.isfinite()
    inverted, others = ri[pairs & taken].double(), ri[pairs & ~taken].double()
    means = [float(values.mean()) if values.numel() else NAN for values in (inverted, others)]
    return RelationOfPairs(means[0], means[1], inverted.numel(), others.numel())


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


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its bootstrap confidence interval, and the number of values.

    The ends are NaN where nothing is known of the spread: of fewer than two rows, or rows that all say the same.
    """

    mean: float
    low: float
    high: float
    count: int


def bootstrap(values: Tensor, seed: int = 0, draws: int = 2000, level: float = 0.95) -> Interval:
    """Mean and percentile bootstrap interval over the rows; NaN entries are left out of each draw's mean

    values (n,) or (n, j): whole rows are drawn, since the joints of one sample belong together.
    Source: Efron 1979, Bootstrap Methods: Another Look at the Jackknife, doi:10.1214/aos/1176344552.
    """
    rows = values.double().reshape(len(values), -1)
    known = rows.isfinite()
    total, count = torch.where(known, rows, 0.0).sum(1), known.sum(1)
    if not known.any():
        return Interval(NAN, NAN, NAN, 0)
    pick = torch.randint(len(rows), (draws, len(rows)), generator=torch.Generator().manual_seed(seed))
    means = total[pick].sum(1) / count[pick].sum(1)
    means = means[means.isfinite()]
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    # an interval of no width would claim to know exactly what was seen once, or is constant
    rows_said = (total / count.clamp_min(1))[count > 0]
    if len(rows_said) < 2 or float(rows_said.max() - rows_said.min()) == 0:
        low = high = NAN
    return Interval(float(total.sum() / count.sum()), low, high, int(count.sum()))
